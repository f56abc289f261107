"""The tables. All components talk only through them and the blob store."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

metadata = MetaData()

setting = Table(
    "setting",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", String, nullable=False),
)

task = Table(
    "task",
    metadata,
    Column("name", String, primary_key=True),
    Column("plan", LargeBinary, nullable=False),  # exact bytes
    Column("bundle", LargeBinary, nullable=False),  # canonical JSON: file name -> sha256 of its blob
    Column("state", String, nullable=False),  # active | done
    Column("reason", String, nullable=False),  # why it is done
    Column("created_s", Float, nullable=False),
)

device = Table(
    "device",
    metadata,
    Column("device", String, primary_key=True),
    Column("task", String, nullable=False),
    Column("certificate", LargeBinary, nullable=False),  # canonical JSON of the signed certificate
    Column("identity_key", LargeBinary, nullable=False),
    Column("enrolled_s", Float, nullable=False),
    Column("counter", BigInteger, nullable=False),  # highest request counter seen
    Column("last_request", String, nullable=False),  # digest of the request that used it
    Column("last_seen_s", Float, nullable=False),
    Column("version", Integer, nullable=False),  # that it said it uses, -1 before the first
    Column("state", String, nullable=False, server_default="active"),  # active | quarantined | revoked
    Column("state_reason", String, nullable=False, server_default=""),  # why it is not active
    Column("behind", Integer, nullable=False, server_default="0"),  # requests with counters of the past, lately
    Column("behind_counter", BigInteger, nullable=False, server_default="0"),  # the highest counter at the last one
    Column("vectors", Integer, nullable=False, server_default="0"),  # masked vectors taken from it, ever
    Column("last_vector_s", Float, nullable=False, server_default="0"),
    Column("code_group", String, nullable=False, server_default=""),  # of the code that it redeemed
    Column("memory_mib", Integer, nullable=False, server_default="0"),  # that it said it has, 0 before the first time
    Column("contributions", Integer, nullable=False, server_default="0"),  # sums that were published with it
    Column("last_contribution_s", Float, nullable=False, server_default="0"),
    Column("serial", Integer, nullable=False, server_default="0"),  # of its certificate: how many keys it had before
    Column("key_since_s", Float, nullable=False, server_default="0"),  # when its key came, 0 for at enrolment
    Column("declined", Integer, nullable=False, server_default="0"),  # round that it said it keeps out of, 0 for none
    # For pages of lists; of columns that no request of a device changes, so that these stay as fast.
    Index("device_by_state", "task", "state", "device"),
    Index("device_by_group", "task", "code_group", "device"),
    Index("device_by_task", "task", "device"),
)

# The keys that devices had before; none of them counts any more.
former_key = Table(
    "former_key",
    metadata,
    Column("device", ForeignKey("device.device"), primary_key=True),
    Column("serial", Integer, primary_key=True, autoincrement=False),
    Column("identity_key", LargeBinary, nullable=False),
    Column("until_s", Float, nullable=False),
    Column("used_s", Float, nullable=False, server_default="0"),  # when it signed again for the first time, 0 if never
)

# Who was asked to train in the open round, or to evaluate for a stage; gone when that is over.
invitation = Table(
    "invitation",
    metadata,
    Column("task", ForeignKey("task.name"), primary_key=True),
    Column("purpose", String, primary_key=True, server_default="training"),  # training | evaluation
    Column("device", ForeignKey("device.device"), primary_key=True),
    Column("invited_s", Float, nullable=False),
)

# How many devices check in, by hour of the day (UTC).
arrival = Table(
    "arrival",
    metadata,
    Column("hour", Integer, primary_key=True, autoincrement=False),
    Column("devices", Float, nullable=False),  # moving mean over the days
    Column("counted", Integer, nullable=False),  # hours since the epoch, when it was last counted
)

version = Table(
    "version",
    metadata,
    Column("task", ForeignKey("task.name"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("release", LargeBinary, nullable=False),  # exact bytes of release.json
    Column("signature", LargeBinary, nullable=False),
    Column("model_sha256", LargeBinary, nullable=False),
    Column("plan", LargeBinary, nullable=False),  # exact bytes: the task's own, but for an adapted clip norm
    Column("master_sha256", String, nullable=False),  # blob of the f32 master weights
    Column("created_s", Float, nullable=False),
)

round_ = Table(
    "round",
    metadata,
    Column("task", ForeignKey("task.name"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("base_version", Integer, nullable=False),
    Column("phase", String, nullable=False),
    Column("opened_s", Float, nullable=False),
    Column("closed_s", Float),
    Column("reason", String, nullable=False),
    Column("result", LargeBinary),  # canonical JSON: counts and summed metrics
    Column("invited", Integer, nullable=False, server_default="0"),  # devices that were asked to train, once over
    Index("round_by_base", "task", "base_version"),
)

cohort = Table(
    "cohort",
    metadata,
    Column("id", String, primary_key=True),
    Column("task", ForeignKey("task.name"), nullable=False, index=True),
    Column("round", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),  # 1 for the first cohort of a round
    Column("base_version", Integer, nullable=False),
    Column("phase", String, nullable=False),
    Column("since_s", Float, nullable=False),  # when the phase began
    Column("expires_at_s", Integer, nullable=False),
    Column("roster", LargeBinary),  # canonical JSON, once fixed
    Column("members", Integer, nullable=False),
    Column("sharers", LargeBinary),  # bitmap, once frozen
    Column("survivors", LargeBinary),  # bitmap, once frozen
    Column("failure", String, nullable=False),  # code and message of a failed cohort
    # training | evaluation: of a promotion, whose number stands in place of the round's
    Column("purpose", String, nullable=False, server_default="training"),
    Column("baseline", Integer),  # the version that an evaluation compares the base version with
    Index("cohort_by_round", "task", "round", "attempt"),
)

# What a task's devices use; no row while they use the newest version.
task_release = Table(
    "task_release",
    metadata,
    Column("task", ForeignKey("task.name"), primary_key=True),
    Column("revision", Integer, nullable=False),  # grows with every change
    Column("released", Integer, nullable=False),
    Column("pinned", Integer),
    Column("promotion", Integer, nullable=False),  # the number of the last one, 0 before the first
    Column("decision", LargeBinary),  # canonical JSON of the signed decision that devices are shown
    Column("sequence", Integer, nullable=False),  # of that decision: the revision that it tells, 0 before the first
)

# Every attempt to release a version.
promotion = Table(
    "promotion",
    metadata,
    Column("task", ForeignKey("task.name"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("candidate", Integer, nullable=False),
    Column("baseline", Integer, nullable=False),  # that was released before it
    Column("rule", LargeBinary, nullable=False),  # canonical JSON: stages and gate
    Column("phase", String, nullable=False),  # evaluating | waiting | released | rolled-back
    Column("stage", Integer, nullable=False),  # from 0
    Column("place_limit", BigInteger, nullable=False),  # devices whose place is below it are in the stage
    Column("since_s", Float, nullable=False),  # when the stage began
    Column("cohort", String, nullable=False),  # that evaluates for the stage, empty before
    Column("attempts", Integer, nullable=False),  # cohorts of the whole promotion
    Column("reason", String, nullable=False),  # of how it ended
    Column("promoted_by", String, nullable=False),
    Column("created_s", Float, nullable=False),
    Column("ended_s", Float),
)

# What a stage's devices found.
evaluation = Table(
    "evaluation",
    metadata,
    Column("cohort", String, primary_key=True),
    Column("task", ForeignKey("task.name"), nullable=False, index=True),
    Column("promotion", Integer, nullable=False),
    Column("stage", Integer, nullable=False),
    Column("candidate", Integer, nullable=False),
    Column("baseline", Integer, nullable=False),
    Column("result", LargeBinary, nullable=False),  # canonical JSON: counts and summed metrics of both versions
    Column("passed", Integer, nullable=False),
    Column("reason", String, nullable=False),
    Column("judged_s", Float, nullable=False),
)

# One row per message of one member: the exact bytes, so that a repeat is recognised and anything else refused.
step = Table(
    "step",
    metadata,
    Column("cohort", ForeignKey("cohort.id"), primary_key=True),
    Column("device", ForeignKey("device.device"), primary_key=True),
    Column("step", String, primary_key=True),  # join | shares | inbox | vector | agreement | answer
    Column("body", LargeBinary, nullable=False),  # for shares and vector: the sha256
    Column("received_s", Float, nullable=False),
)

# What members said of their self-mask seeds and sealed for each other, by roster index; gone when the cohort is over.
commitment = Table(
    "commitment",
    metadata,
    Column("cohort", ForeignKey("cohort.id"), primary_key=True),
    Column("member", Integer, primary_key=True),
    Column("body", LargeBinary, nullable=False),
)

box = Table(
    "box",
    metadata,
    Column("cohort", ForeignKey("cohort.id"), primary_key=True),
    Column("receiver", Integer, primary_key=True),
    Column("sender", Integer, primary_key=True),
    Column("body", LargeBinary, nullable=False),
)

# Append-only: one row per cohort whose survivors were frozen under differential privacy, whatever became of its sum.
privacy_event = Table(
    "privacy_event",
    metadata,
    Column("cohort", ForeignKey("cohort.id"), primary_key=True),
    Column("task", ForeignKey("task.name"), nullable=False, index=True),
    Column("members", Integer, nullable=False),
    Column("survivors", Integer, nullable=False),
    Column("loss", LargeBinary, nullable=False),  # canonical JSON: a Renyi divergence bound per order
    Column("charged_s", Float, nullable=False),
    Index("privacy_event_by_time", "task", "charged_s"),
)

# The vectors that a driver has added up and deleted: their sum is a file, so that a restart asks nobody again.
partial_sum = Table(
    "partial_sum",
    metadata,
    Column("cohort", ForeignKey("cohort.id"), primary_key=True),
    Column("members", LargeBinary, nullable=False),  # bitmap of whose vectors are in it
    Column("sha256", String, nullable=False),  # of the file
)

# Append-only: who did what. Each row's hash covers the row before it.
audit = Table(
    "audit",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("actor", String, nullable=False),  # operator, driver, device
    Column("action", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("detail", LargeBinary, nullable=False),  # canonical JSON
    Column("sha256", LargeBinary, nullable=False),
)

lease = Table(
    "lease",
    metadata,
    Column("name", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("expires_s", Float, nullable=False),
)

# Who may sign in to the page.
operator = Table(
    "operator",
    metadata,
    Column("name", String, primary_key=True),
    Column("role", String, nullable=False),  # viewer | operator | admin
    Column("password_hash", String, nullable=False),  # argon2id; empty: a proxy or a token says who it is
    Column("created_s", Float, nullable=False),
)

operator_session = Table(
    "operator_session",
    metadata,
    Column("secret_sha256", LargeBinary, primary_key=True),  # of the cookie
    Column("operator", ForeignKey("operator.name"), nullable=False, index=True),
    Column("form_token", String, nullable=False),  # that each of the session's forms must bring
    Column("began_s", Float, nullable=False),
    Column("used_s", Float, nullable=False),  # to the minute
)

operator_token = Table(
    "operator_token",
    metadata,
    Column("id", String, primary_key=True),
    Column("secret_sha256", LargeBinary, nullable=False),
    Column("operator", ForeignKey("operator.name"), nullable=False, index=True),
    Column("role", String, nullable=False),  # at most; the operator's own if that is less
    Column("label", String, nullable=False),
    Column("created_s", Float, nullable=False),
    Column("expires_s", Float, nullable=False),
    Column("revoked_s", Float),
)

# How often signing in was tried lately, by address and by account.
sign_in_attempt = Table(
    "sign_in_attempt",
    metadata,
    Column("key", String, primary_key=True),
    Column("tries", Integer, nullable=False),
    Column("since_s", Float, nullable=False, index=True),
)

authority_metadata = MetaData()

code = Table(
    "code",
    authority_metadata,
    Column("secret_sha256", LargeBinary, primary_key=True),
    Column("task", String, nullable=False),
    Column("created_s", Float, nullable=False),
    Column("expires_s", Float, nullable=False),
    Column("device", String),  # set when redeemed
    Column("identity_key", LargeBinary),
    Column("certificate", LargeBinary),
    Column("code_group", String, nullable=False, server_default=""),
    Column("revoked_s", Float),  # set when an operator took it back
    Index("code_by_time", "created_s", "secret_sha256"),
)

# Append-only: every certificate that was ever issued.
certificate_log = Table(
    "certificate_log",
    authority_metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("device", String, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("issued_s", Float, nullable=False),
    Column("serial", Integer, nullable=False, server_default="0"),
    UniqueConstraint("device", "serial"),
)

# Append-only: every seed of a graph that was ever drawn, one per cohort id.
seed_log = Table(
    "seed_log",
    authority_metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("cohort", String, nullable=False),
    Column("roster_root", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),  # canonical JSON of the signed draw
    Column("drawn_s", Float, nullable=False),
    UniqueConstraint("cohort"),
)
