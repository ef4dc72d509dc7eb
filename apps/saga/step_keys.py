"""A step's key, which its partner gives back with an answer: ``<run>:<position>[~<redone>][:undo]``."""

from uuid import UUID


def parse_key(step_key: str) -> tuple[UUID | None, int, int, bool]:
    """The run, the step's position, how often it has begun anew, and whether it is of an undo."""
    run_text, _, rest = step_key.partition(":")
    place = rest.removesuffix(":undo")
    position, _, redone = place.partition("~")
    try:
        if position.isascii() and position.isdigit() and (place == position or (redone.isascii() and redone.isdigit())):
            return UUID(run_text), int(position), int(redone or 0), rest != place
    except ValueError:
        pass  # not an id of ours, or thousands of digits
    return None, 0, 0, False
