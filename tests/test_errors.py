"""Every error is an LsmTensorError, is the builtin that Python readers expect, survives pickling, and reads as a sentence."""

from __future__ import annotations

import errno
import inspect
import pickle

import pytest

import lsmtensor as lt
from lsmtensor import errors

ALL = [c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, errors.LsmTensorError)]


@pytest.mark.parametrize("kind", ALL, ids=lambda c: c.__name__)
def test_picklable_and_readable(kind):
    error = kind("it's broken")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind and str(copy) == str(error) == "it's broken"


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.KeyNotFoundError, KeyError), (errors.TableNotFoundError, KeyError), (errors.SchemaError, ValueError),
        (errors.DuplicateKeyError, ValueError), (errors.InvalidArgumentError, ValueError), (errors.LockedError, OSError),
        (errors.UnknownNameError, LookupError), (errors.UnavailableError, ImportError), (errors.StorageError, OSError),
        (errors.ReadOnlyError, PermissionError),
    ],
)  # fmt: skip
def test_builtin_parents(kind, builtin):
    assert issubclass(kind, builtin)


def test_places_are_kept():
    damage = pickle.loads(pickle.dumps(errors.CorruptionError("checksum differs", "sst/000001.arrow", 4096)))
    assert (damage.path, damage.offset) == ("sst/000001.arrow", 4096)
    assert str(damage) == "sst/000001.arrow at offset 4096: checksum differs"
    full = pickle.loads(pickle.dumps(errors.StorageError("the disk is full", errno.ENOSPC)))
    assert full.errno == errno.ENOSPC and str(full) == "the disk is full"


def test_public_ones_are_exported():
    named = {c.__name__ for c in ALL if not c.__name__.startswith("_")}
    assert named <= set(lt.__all__)
