"""Workers work where the process works that sends them."""

import os
from pathlib import Path

from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor

from pipeline.workers.shared_paths import in_directory


def test_a_worker_that_began_elsewhere_works_in_the_callers_directory(tmp_path, monkeypatch):
    get_reusable_executor().shutdown()  # workers of another test may have begun anywhere
    (first, *_) = Parallel(n_jobs=2)(delayed(os.getcwd)() for _ in range(2))  # the workers begin, and are kept
    monkeypatch.chdir(tmp_path)
    assert set(Parallel(n_jobs=2)(delayed(os.getcwd)() for _ in range(2))) == {first}  # joblib leaves them there
    found = Parallel(n_jobs=2)(delayed(in_directory(os.getcwd))() for _ in range(2))
    assert set(map(Path, found)) == {tmp_path.resolve()} and Path(first) != tmp_path
