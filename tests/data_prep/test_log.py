import pytest

from data_prep.log import describe_count


@pytest.mark.parametrize(("count", "text"), [(0, "0 scans"), (1, "1 scan"), (2, "2 scans"), (243958, "243,958 scans")])
def test_a_count_is_of_one_thing_or_of_several(count: int, text: str) -> None:
    assert describe_count(count, "scan") == text
