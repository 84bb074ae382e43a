"""Accuracies of single labels: by hand, on resamples, and equal to scikit-learn's, on ties too."""

import numpy as np
import pytest

from pipeline.metrics import mean_class_accuracy, resampled_top1, resamples, top_k_hits

TARGETS = np.eye(3)[[0, 0, 1, 2]]
SCORES = np.array([[0.9, 0.5, 0.1], [0.2, 0.5, 0.3], [0.1, 0.8, 0.0], [0.5, 0.4, 0.4]])


def test_by_hand():
    """Ranks of the labels: 1; 3; 1; classes 1 and 2 tie for the second place, which the later one takes."""
    assert top_k_hits(SCORES, TARGETS).tolist() == [True, False, True, False]
    assert top_k_hits(SCORES, TARGETS, 2).tolist() == [True, False, True, True]
    assert top_k_hits(SCORES, TARGETS, 5).all()
    assert mean_class_accuracy(SCORES, TARGETS) == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert mean_class_accuracy(SCORES[:3], TARGETS[:3]) == pytest.approx((1 / 2 + 1) / 2)  # the third class has none


def test_of_equal_scores_the_later_class_is_the_higher():
    assert top_k_hits(np.zeros((3, 3)), np.eye(3)).tolist() == [False, False, True]
    assert top_k_hits(np.zeros((3, 3)), np.eye(3), 2).tolist() == [False, True, True]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("classes", [3, 7, 40])
def test_equal_to_scikit_learn(classes, ties):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(classes)
    scores = rng.normal(size=(300, classes))
    if ties:
        scores = scores.round(0 if classes < 40 else 1)
        assert (np.sort(scores)[:, -1] == np.sort(scores)[:, -2]).mean() > 0.1  # for the first place
    labels = rng.integers(0, classes - 1, 300)  # the last class has no video
    targets = np.eye(classes, dtype=np.uint8)[labels]
    for k in (1, 2, 5):
        if k < classes:
            expected = metrics.top_k_accuracy_score(labels, scores, k=k, labels=range(classes))
            assert abs(top_k_hits(scores, targets, k).mean() - expected) < 1e-9
    predicted = classes - 1 - scores[:, ::-1].argmax(1)  # of equal scores the later class
    assert top_k_hits(scores, targets).tolist() == (predicted == labels).tolist()
    known = np.unique(labels)
    expected = metrics.recall_score(labels, predicted, labels=known, average="macro")
    assert abs(mean_class_accuracy(scores, targets) - expected) < 1e-9
    seen = np.isin(predicted, known)  # balanced_accuracy_score warns where a class is predicted that no video has
    expected = metrics.balanced_accuracy_score(labels[seen], predicted[seen])
    assert abs(mean_class_accuracy(scores[seen], targets[seen]) - expected) < 1e-9


def test_resamples_equal_the_plain_metric():
    times = resamples(4, 50)
    lists = [np.repeat(np.arange(4), column) for column in times.T]
    plain = [top_k_hits(SCORES[chosen], TARGETS[chosen]).mean() for chosen in lists]
    np.testing.assert_allclose(resampled_top1(SCORES, TARGETS, times), plain, rtol=0, atol=1e-12)
    assert len(set(plain)) > 2


@pytest.mark.parametrize(("row", "count"), [([0, 0, 0], 0), ([1, 0, 1], 2)])
def test_other_than_one_class_is_refused(row, count):
    with pytest.raises(ValueError, match=f"video 2 has {count} classes"):
        top_k_hits(SCORES, np.array([*TARGETS[:2], row, TARGETS[3]]))
    with pytest.raises(ValueError, match="video 1, class 2"):
        top_k_hits(np.where(np.arange(12).reshape(4, 3) == 5, np.nan, SCORES), TARGETS)
