"""Fixtures that these tests share."""

from tests.bundles import activity_bundle, activity_folder, dropping_bundle, personal_bundle

__all__ = ["activity_bundle", "activity_folder", "dropping_bundle", "personal_bundle"]
