"""How an error is told in the rows."""

from apps.common.errors import DomainError

ERROR_CHARACTERS_MAX = 2000


def error_code(error: Exception) -> str:
    """R… of a refusal, the class's name of anything else."""
    return error.code if isinstance(error, DomainError) else type(error).__name__


def error_detail(error: Exception) -> str:
    """What the error says, as far as the database can keep it."""
    text = str(error)[:ERROR_CHARACTERS_MAX].replace("\x00", "")
    return text.encode(errors="replace").decode()
