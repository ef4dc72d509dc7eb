"""What we sign beside documents: the cancellation event and the voiding of a number. Loads nfelib.

Enums are looked up by value: their class names carry counters that change between releases.
"""

from datetime import datetime

from nfelib.nfe.bindings.v4_0 import leiaute_inut_nfe_v4_00 as V
from nfelib.nfe.bindings.v4_0 import tipos_basico_v4_00 as B
from nfelib.nfe.bindings.v4_0.inut_nfe_v4_00 import InutNfe
from nfelib.nfe_evento_cancel.bindings import v1_0 as C

from apps.fiscal_docs.documents.draft import local_time
from apps.fiscal_docs.documents.serial import one_line
from apps.fiscal_docs.keys import AccessKey


def cancellation(*, key: AccessKey, protocol: str, reason: str, environment: str, at: datetime) -> tuple[str, str]:
    """The event 110111 and the Id to sign."""
    event = C.Tevento.InfEvento
    inner = event(
        Id=f"ID110111{key}01",
        cOrgao=C.TcorgaoIbge(key.uf_code),
        tpAmb=C.Tamb(environment),
        CNPJ=key.cnpj,
        chNFe=str(key),
        dhEvento=local_time(at),
        tpEvento=C.InfEventoTpEvento("110111"),
        nSeqEvento="1",
        verEvento=C.InfEventoVerEvento("1.00"),
        detEvento=event.DetEvento(
            versao=C.DetEventoVersao("1.00"),
            descEvento=C.DetEventoDescEvento("Cancelamento"),
            nProt=protocol,
            xJust=reason,
        ),
    )
    return one_line(C.Evento(versao="1.00", infEvento=inner)), inner.Id


def voiding(*, key: AccessKey, reason: str, environment: str) -> tuple[str, str]:
    """The request to declare one number unused for ever, and the Id to sign."""
    year = key.year_month[:2]
    inner = V.TinutNfe.InfInut(
        Id=f"ID{key.uf_code}{year}{key.cnpj}{key.kind}{key.series:03d}{key.number:09d}{key.number:09d}",
        tpAmb=B.Tamb(environment),
        xServ=V.InfInutXServ("INUTILIZAR"),
        cUF=B.TcodUfIbge(key.uf_code),
        ano=year,
        CNPJ=key.cnpj,
        mod=B.Tmod(key.kind),
        serie=str(key.series),
        nNFIni=str(key.number),
        nNFFin=str(key.number),
        xJust=reason,
    )
    return one_line(InutNfe(versao="4.00", infInut=inner)), inner.Id
