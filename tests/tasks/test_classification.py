"""Names of classes and their order."""

import os
import random
import subprocess
import sys
from decimal import Decimal

import pytest

from qvtune.tasks.classification import class_name, class_names


@pytest.mark.parametrize(
    ("value", "name"),
    [(3, "3"), (3.0, "3"), (2.5, "2.5"), (True, "true"), (False, "false"), (" good ", "good"), ("True", "True")],
)
def test_class_names(value, name):
    assert class_name(value) == name


def test_integer_classes_are_in_numeric_order_and_others_in_alphabetical():
    assert class_names([10, 9, 2, 10, -1]) == ("-1", "2", "9", "10")
    assert class_names([Decimal(10), Decimal(9)]) == ("9", "10")
    assert class_names(["10", "9", "2"]) == ("2", "9", "10")
    assert class_names(["10", "9", "2", "x"]) == ("10", "2", "9", "x")
    assert class_names([True, False, True]) == ("false", "true")
    assert class_names(["b", "a ", "a"]) == ("a", "b")


def test_the_order_of_classes_is_total():
    names = ["1", "01", "+1", "001", "2", "10", "-0", "0", "9" * 5000]
    expected = ("-0", "0", "+1", "001", "01", "1", "2", "10", "9" * 5000)
    # A set's own order follows PYTHONHASHSEED; what it gives in another order must come out the same.
    for seed in range(20):
        shuffled = random.Random(seed).sample(names, len(names))
        assert class_names(shuffled) == expected
    found = {
        subprocess.run(
            [
                sys.executable,
                "-c",
                f"from qvtune.tasks.classification import class_names; print(class_names({names[:4]}))",
            ],
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in range(1, 4)
    }
    assert found == {"('+1', '001', '01', '1')\n"}
