from email.message import Message

import pytest

from sktransfer import TransferClassifier
from sktransfer.data import documentation_link
from sktransfer.selection.recommendation import Recommendation


@pytest.fixture
def published(monkeypatch):
    """Metadata with the address of the documentation."""
    metadata = Message()
    metadata["Project-URL"] = "Source, https://example.org/source"
    metadata["Project-URL"] = "Documentation, https://example.org/docs/"
    monkeypatch.setattr("importlib.metadata.metadata", lambda name: metadata)


@pytest.mark.usefixtures("published")
def test_estimators_link_to_their_pages():
    page = "https://example.org/docs/generated/sktransfer.TransferClassifier.html"
    assert f'href="{page}"' in TransferClassifier()._repr_html_()


@pytest.mark.usefixtures("published")
def test_recommendations_link_to_the_guide():
    shown = Recommendation(None, None, 0.5, ("too few samples",), ())._repr_html_()
    assert 'href="https://example.org/docs/guide/choosing.html"' in shown


def test_without_an_address_there_is_no_link(monkeypatch):
    monkeypatch.setattr("importlib.metadata.metadata", lambda name: Message())
    assert documentation_link("index.html") == ""
    assert "href=" not in TransferClassifier()._repr_html_()
