-- Facts about this database as a whole: generation, next_job, link_key.
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- `folded` is the full name in lower case, `scope` the same without the job's own name.
CREATE TABLE jobs (
    id         INTEGER PRIMARY KEY,
    folded     TEXT NOT NULL UNIQUE,
    scope      TEXT NOT NULL,
    experiment TEXT NOT NULL,
    state      TEXT NOT NULL,
    open       INTEGER NOT NULL,
    doc        TEXT NOT NULL
) STRICT;
CREATE INDEX jobs_by_scope ON jobs (scope, id);
CREATE INDEX jobs_open ON jobs (id) WHERE open = 1;

-- Apart from `jobs`, so that no listing can show them.
CREATE TABLE job_secrets (
    job INTEGER PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    doc TEXT NOT NULL
) STRICT;

CREATE TABLE plans (
    job  INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    gang INTEGER NOT NULL,
    doc  TEXT NOT NULL,
    PRIMARY KEY (job, gang)
) STRICT, WITHOUT ROWID;

CREATE TABLE nodes (
    node  TEXT PRIMARY KEY,
    epoch INTEGER NOT NULL,
    facts TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE journal (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT,
    at     INTEGER NOT NULL,
    kind   TEXT NOT NULL,
    job_id INTEGER,
    job    TEXT,
    node   TEXT,
    detail TEXT NOT NULL
) STRICT;

CREATE TABLE workspaces (
    folded TEXT PRIMARY KEY,
    scope  TEXT NOT NULL,
    doc    TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE experiments (
    folded TEXT PRIMARY KEY,
    scope  TEXT NOT NULL REFERENCES workspaces (folded) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    doc    TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX experiments_by_scope ON experiments (scope);
