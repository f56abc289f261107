"""Run by Alembic with the connection and metadata that ``upgrade.py`` put into its configuration."""

from itertools import count

from alembic import context

_STEPS = count(1)
_report = context.config.attributes["report"]


def _tell(ctx: object, step: object, heads: object, run_args: object) -> None:  # noqa: ARG001  # Alembic's names
    _report("steps of the upgrade", next(_STEPS))


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=context.config.attributes["metadata"],
    transactional_ddl=False,  # the caller's transaction holds all of it
    render_as_batch=True,
    on_version_apply=_tell,
)
context.run_migrations()
