import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktransfer.selection.outcomes import fit


def test_a_pipeline_of_one_step_takes_weights():
    X, y = np.arange(8.0)[:, None], np.repeat([0, 1], 4)
    weight = np.arange(1.0, 9)
    found = fit(make_pipeline(LogisticRegression()), X, y, weight).predict_proba(X)
    expected = LogisticRegression().fit(X, y, sample_weight=weight).predict_proba(X)
    np.testing.assert_allclose(found, expected)
