"""A run in two parts is the run in one, to the bit."""


def test_a_divided_run_is_a_whole_one_to_the_bit(printed_json):
    """In a process of its own: the tests compile as no run does, and bits depend on that."""
    for name, (whole, *others) in printed_json("tests.simulation.divided_bits").items():
        assert others == [whole] * len(others), name
