"""kafka-python has what makes it fast: the checksum and the compression in C."""

import crc32c
from kafka import codec
from kafka.record import util


class TestSpeedups:
    def test_every_batch_is_summed_by_the_library_in_c(self) -> None:
        assert util.calc_crc32c.__defaults__ == (crc32c.crc32c,)
        assert util.calc_crc32c(memoryview(b"123456789")) == 0xE3069283  # the check value of CRC-32C

    def test_lz4_is_there(self) -> None:
        assert codec.has_lz4()
        assert codec.lz4_decode(codec.lz4_encode(b"lastro" * 100)) == b"lastro" * 100
