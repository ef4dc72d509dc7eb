"""placeholder"""


def mapping_problems(definition):
    return []
