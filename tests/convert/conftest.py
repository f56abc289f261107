"""Fixtures that these tests share."""

from tests.bundles import activity_bundle, activity_folder, personal_bundle

__all__ = ["activity_bundle", "activity_folder", "personal_bundle"]
