-- A database of schema 2: that of schema 1 (1.sql), brought up to date by the version that made schema 2.
-- The secret of the job that has ended is wiped; its keyed hash stands beside the job.
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE experiments (
    folded TEXT PRIMARY KEY,
    scope  TEXT NOT NULL REFERENCES workspaces (folded) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    doc    TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "experiments" VALUES('00000000-0000-0000-0000-000000000000/trainyard/default/default','00000000-0000-0000-0000-000000000000/trainyard/default','{"subscription":"00000000-0000-0000-0000-000000000000","resourceGroup":"trainyard","workspace":"default","name":"default","created":1795593787376}');
CREATE TABLE job_secrets (
    job INTEGER PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    doc TEXT NOT NULL
) STRICT;
INSERT INTO "job_secrets" VALUES(2,'{"/secrets/0/value":"canary-7f3a"}');
INSERT INTO "job_secrets" VALUES(3,'{"/secrets/0/value":"canary-7f3a"}');
CREATE TABLE jobs (
    id         INTEGER PRIMARY KEY,
    folded     TEXT NOT NULL UNIQUE,
    scope      TEXT NOT NULL,
    experiment TEXT NOT NULL,
    state      TEXT NOT NULL,
    open       INTEGER NOT NULL,
    doc        TEXT NOT NULL
, ended INTEGER, secrets_mac TEXT) STRICT;
INSERT INTO "jobs" VALUES(1,'00000000-0000-0000-0000-000000000000/trainyard/default/default/done','00000000-0000-0000-0000-000000000000/trainyard/default/default','default','succeeded',0,'{"id":1,"key":{"subscription":"00000000-0000-0000-0000-000000000000","resourceGroup":"trainyard","workspace":"default","experiment":"default","job":"done"},"uuid":"87776b69-932f-41e3-a6b3-5a5c60091d7c","spec":{"schedulingPriority":"normal","cluster":{"id":"/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/trainyard/providers/Microsoft.BatchAI/workspaces/default/clusters/default"},"nodeCount":1,"customToolkitSettings":{"commandLine":"true"},"stdOutErrPathPrefix":"$AZ_BATCHAI_JOB_TEMP_DIR","secrets":[{"name":"PASSWORD"}],"constraints":{"maxWallClockTime":"P7D"}},"created":1795593787377,"transition":1795593787402,"started":1795593787377,"phase":{"ended":{"reason":{"code":"Succeeded"},"at":1795593787402,"tasks":[{"rank":0,"name":"master","role":"master","index":0,"node":"node-0","gpus":[],"state":{"ended":{"attempt":{"job":1,"gang":1,"rank":0},"exit":{"code":0},"cause":"itself","started":1795593787398,"ended":1795593787398,"stderrTail":"","message":""}}}],"gang":1}},"gangs":1,"retriesUsed":0,"infrastructureFaults":0,"takenPorts":[],"cancelled":false,"deleteWhenEnded":false,"history":[[1,{"code":"Succeeded"}]]}',1795593787402,'ac9a071efb9faa2de4ec4d6aca5fa7be0957a0c4bc6a1731e2848ea7f8c6aa5a');
INSERT INTO "jobs" VALUES(2,'00000000-0000-0000-0000-000000000000/trainyard/default/default/running','00000000-0000-0000-0000-000000000000/trainyard/default/default','default','running',1,'{"id":2,"key":{"subscription":"00000000-0000-0000-0000-000000000000","resourceGroup":"trainyard","workspace":"default","experiment":"default","job":"running"},"uuid":"7c8cfd15-2f5c-447b-a1b4-7978219702d7","spec":{"schedulingPriority":"normal","cluster":{"id":"/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/trainyard/providers/Microsoft.BatchAI/workspaces/default/clusters/default"},"nodeCount":1,"customToolkitSettings":{"commandLine":"exec sleep 30"},"stdOutErrPathPrefix":"$AZ_BATCHAI_JOB_TEMP_DIR","secrets":[{"name":"PASSWORD"}],"constraints":{"maxWallClockTime":"P7D"}},"created":1795593787421,"transition":1795593787421,"started":1795593787421,"phase":{"active":{"id":{"job":2,"gang":1},"nodes":[{"node":"node-0","phase":"started"}],"tasks":[{"rank":0,"name":"master","role":"master","index":0,"node":"node-0","gpus":[],"state":{"running":{"pid":29321,"at":1795593787444}}}],"leaseMs":0,"outcome":null}},"gangs":1,"retriesUsed":0,"infrastructureFaults":0,"takenPorts":[],"cancelled":false,"deleteWhenEnded":false,"history":[]}',NULL,NULL);
INSERT INTO "jobs" VALUES(3,'00000000-0000-0000-0000-000000000000/trainyard/default/default/queued','00000000-0000-0000-0000-000000000000/trainyard/default/default','default','queued',1,'{"id":3,"key":{"subscription":"00000000-0000-0000-0000-000000000000","resourceGroup":"trainyard","workspace":"default","experiment":"default","job":"queued"},"uuid":"b447b1b1-a1a8-4e3d-a709-169b48c43646","spec":{"schedulingPriority":"normal","cluster":{"id":"/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/trainyard/providers/Microsoft.BatchAI/workspaces/default/clusters/default"},"nodeCount":1,"customToolkitSettings":{"commandLine":"true"},"stdOutErrPathPrefix":"$AZ_BATCHAI_JOB_TEMP_DIR","secrets":[{"name":"PASSWORD"}],"constraints":{"maxWallClockTime":"P7D"}},"created":1795593787443,"transition":1795593787443,"started":null,"phase":{"queued":{}},"gangs":0,"retriesUsed":0,"infrastructureFaults":0,"takenPorts":[],"cancelled":false,"deleteWhenEnded":false,"history":[]}',NULL,NULL);
CREATE TABLE journal (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT,
    at     INTEGER NOT NULL,
    kind   TEXT NOT NULL,
    job_id INTEGER,
    job    TEXT,
    node   TEXT,
    detail TEXT NOT NULL
) STRICT;
INSERT INTO "journal" VALUES(1,1795593783502,'nodeJoined',NULL,NULL,'node-0','{"epoch":1}');
INSERT INTO "journal" VALUES(2,1795593787377,'jobSubmitted',1,'done',NULL,'{"toolType":"custom","nodeCount":1}');
INSERT INTO "journal" VALUES(3,1795593787377,'jobStarted',1,'done',NULL,'{"gang":1,"nodes":["node-0"]}');
INSERT INTO "journal" VALUES(4,1795593787399,'taskStarted',1,'done','node-0','{"task":"master","pid":29311}');
INSERT INTO "journal" VALUES(5,1795593787401,'taskEnded',1,'done','node-0','{"task":"master","exit":{"code":0},"cause":"itself"}');
INSERT INTO "journal" VALUES(6,1795593787402,'jobEnded',1,'done',NULL,'{"executionState":"succeeded","exitCode":0,"reason":{"code":"Succeeded"}}');
INSERT INTO "journal" VALUES(7,1795593787421,'jobSubmitted',2,'running',NULL,'{"toolType":"custom","nodeCount":1}');
INSERT INTO "journal" VALUES(8,1795593787421,'jobStarted',2,'running',NULL,'{"gang":1,"nodes":["node-0"]}');
INSERT INTO "journal" VALUES(9,1795593787443,'jobSubmitted',3,'queued',NULL,'{"toolType":"custom","nodeCount":1}');
INSERT INTO "journal" VALUES(10,1795593787448,'taskStarted',2,'running','node-0','{"task":"master","pid":29321}');
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "meta" VALUES('generation','1');
INSERT INTO "meta" VALUES('link_key','5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a');
INSERT INTO "meta" VALUES('next_job','4');
INSERT INTO "meta" VALUES('spec_key','6006dc8c2167efd8338dba1c0d9fb6e4be9a04504a58a0901a76deaa5c26286d');
CREATE TABLE nodes (
    node  TEXT PRIMARY KEY,
    epoch INTEGER NOT NULL,
    facts TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "nodes" VALUES('node-0',1,'{"version":"0.1.0","address":"127.0.0.2","root":"/srv/trainyard/nodes/0/LS_root","portSpace":{"boot_id":"11111111-2222-4333-8444-555555555555","network_namespace":4026531833},"privileged":true,"baseEnvironment":{"HOME":"/home/trainyard","LANG":"C.UTF-8","PATH":"/usr/local/bin:/usr/bin:/bin","SHELL":"/bin/bash"},"gpus":[],"gpuProblem":"no NVIDIA driver"}');
CREATE TABLE plans (
    job  INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    gang INTEGER NOT NULL,
    doc  TEXT NOT NULL,
    PRIMARY KEY (job, gang)
) STRICT, WITHOUT ROWID;
INSERT INTO "plans" VALUES(1,1,'[{"node":"node-0","jobTemp":"/srv/trainyard/nodes/0/LS_root/jobs/default/default/done","directories":["/srv/trainyard/nodes/0/LS_root/mounts","/srv/trainyard/nodes/0/LS_root/jobs","/srv/trainyard/nodes/0/LS_root/jobs/default/default/done","/srv/trainyard/nodes/0/LS_root/jobs/default/default/done/mounts","/srv/trainyard/nodes/0/LS_root/jobs/default/default/done/shared","/srv/trainyard/nodes/0/LS_root/jobs/00000000-0000-0000-0000-000000000000/trainyard/workspaces/default/experiments/default/jobs/done/87776b69-932f-41e3-a6b3-5a5c60091d7c/stdouterr"],"hostMounts":[],"mountedDirectories":[],"files":[{"path":"/srv/trainyard/nodes/0/LS_root/jobs/default/default/done/hostfile","content":"127.0.0.2 slots=1\n"}],"stdDir":"/srv/trainyard/nodes/0/LS_root/jobs/00000000-0000-0000-0000-000000000000/trainyard/workspaces/default/experiments/default/jobs/done/87776b69-932f-41e3-a6b3-5a5c60091d7c/stdouterr","executionLog":"execution.log","preparation":null,"ports":[2222],"tasks":[{"rank":0,"role":"master","index":0,"name":"master","command":{"argv":["/bin/bash","-c","true"],"env":{"AZ_BATCHAI_JOB_MOUNT_ROOT":"/srv/trainyard/nodes/0/LS_root/jobs/default/default/done/mounts","AZ_BATCHAI_JOB_TEMP":"/srv/trainyard/nodes/0/LS_root/jobs/default/default/done","AZ_BATCHAI_JOB_TEMP_DIR":"/srv/trainyard/nodes/0/LS_root/jobs","AZ_BATCHAI_MOUNT_ROOT":"/srv/trainyard/nodes/0/LS_root/mounts","AZ_BATCHAI_MPI_HOST_FILE":"/srv/trainyard/nodes/0/LS_root/jobs/default/default/done/hostfile","AZ_BATCHAI_MPI_MASTER_NODE":"127.0.0.2","AZ_BATCHAI_NUM_GPUS":"0","AZ_BATCHAI_NUM_GPUS_PER_NODE":"0","AZ_BATCHAI_ROOT":"/srv/trainyard/nodes/0/LS_root","AZ_BATCHAI_SHARED_JOB_TEMP":"/srv/trainyard/nodes/0/LS_root/jobs/default/default/done/shared","AZ_BATCHAI_STDOUTERR_DIR":"/srv/trainyard/nodes/0/LS_root/jobs/00000000-0000-0000-0000-000000000000/trainyard/workspaces/default/experiments/default/jobs/done/87776b69-932f-41e3-a6b3-5a5c60091d7c/stdouterr","AZ_BATCH_HOST_LIST":"127.0.0.2","AZ_BATCH_JOB_ID":"done","AZ_BATCH_MASTER_NODE":"127.0.0.2:2222","AZ_BATCH_NODE_LIST":"127.0.0.2","HOME":"/home/trainyard","LANG":"C.UTF-8","PATH":"/usr/local/bin:/usr/bin:/bin","SHELL":"/bin/bash","TRAINYARD_GANG":"1","TRAINYARD_JOB":"done","TRAINYARD_NODE":"node-0","TRAINYARD_NODE_GPUS":"","TRAINYARD_TASK":"master"},"secretEnv":["PASSWORD"],"cwd":"/srv/trainyard/nodes/0/LS_root/jobs/default/default/done","stdout":"stdout.txt","stderr":"stderr.txt"},"gpus":[]}],"notes":[]}]');
INSERT INTO "plans" VALUES(2,1,'[{"node":"node-0","jobTemp":"/srv/trainyard/nodes/0/LS_root/jobs/default/default/running","directories":["/srv/trainyard/nodes/0/LS_root/mounts","/srv/trainyard/nodes/0/LS_root/jobs","/srv/trainyard/nodes/0/LS_root/jobs/default/default/running","/srv/trainyard/nodes/0/LS_root/jobs/default/default/running/mounts","/srv/trainyard/nodes/0/LS_root/jobs/default/default/running/shared","/srv/trainyard/nodes/0/LS_root/jobs/00000000-0000-0000-0000-000000000000/trainyard/workspaces/default/experiments/default/jobs/running/7c8cfd15-2f5c-447b-a1b4-7978219702d7/stdouterr"],"hostMounts":[],"mountedDirectories":[],"files":[{"path":"/srv/trainyard/nodes/0/LS_root/jobs/default/default/running/hostfile","content":"127.0.0.2 slots=1\n"}],"stdDir":"/srv/trainyard/nodes/0/LS_root/jobs/00000000-0000-0000-0000-000000000000/trainyard/workspaces/default/experiments/default/jobs/running/7c8cfd15-2f5c-447b-a1b4-7978219702d7/stdouterr","executionLog":"execution.log","preparation":null,"ports":[2222],"tasks":[{"rank":0,"role":"master","index":0,"name":"master","command":{"argv":["/bin/bash","-c","exec sleep 30"],"env":{"AZ_BATCHAI_JOB_MOUNT_ROOT":"/srv/trainyard/nodes/0/LS_root/jobs/default/default/running/mounts","AZ_BATCHAI_JOB_TEMP":"/srv/trainyard/nodes/0/LS_root/jobs/default/default/running","AZ_BATCHAI_JOB_TEMP_DIR":"/srv/trainyard/nodes/0/LS_root/jobs","AZ_BATCHAI_MOUNT_ROOT":"/srv/trainyard/nodes/0/LS_root/mounts","AZ_BATCHAI_MPI_HOST_FILE":"/srv/trainyard/nodes/0/LS_root/jobs/default/default/running/hostfile","AZ_BATCHAI_MPI_MASTER_NODE":"127.0.0.2","AZ_BATCHAI_NUM_GPUS":"0","AZ_BATCHAI_NUM_GPUS_PER_NODE":"0","AZ_BATCHAI_ROOT":"/srv/trainyard/nodes/0/LS_root","AZ_BATCHAI_SHARED_JOB_TEMP":"/srv/trainyard/nodes/0/LS_root/jobs/default/default/running/shared","AZ_BATCHAI_STDOUTERR_DIR":"/srv/trainyard/nodes/0/LS_root/jobs/00000000-0000-0000-0000-000000000000/trainyard/workspaces/default/experiments/default/jobs/running/7c8cfd15-2f5c-447b-a1b4-7978219702d7/stdouterr","AZ_BATCH_HOST_LIST":"127.0.0.2","AZ_BATCH_JOB_ID":"running","AZ_BATCH_MASTER_NODE":"127.0.0.2:2222","AZ_BATCH_NODE_LIST":"127.0.0.2","HOME":"/home/trainyard","LANG":"C.UTF-8","PATH":"/usr/local/bin:/usr/bin:/bin","SHELL":"/bin/bash","TRAINYARD_GANG":"1","TRAINYARD_JOB":"running","TRAINYARD_NODE":"node-0","TRAINYARD_NODE_GPUS":"","TRAINYARD_TASK":"master"},"secretEnv":["PASSWORD"],"cwd":"/srv/trainyard/nodes/0/LS_root/jobs/default/default/running","stdout":"stdout.txt","stderr":"stderr.txt"},"gpus":[]}],"notes":[]}]');
CREATE TABLE refinery_schema_history(
             version int4 PRIMARY KEY,
             name VARCHAR(255),
             applied_on VARCHAR(255),
             checksum VARCHAR(255));
INSERT INTO "refinery_schema_history" VALUES(1,'first','2026-11-25T08:03:03.486617378Z','18266634794988798396');
INSERT INTO "refinery_schema_history" VALUES(2,'retention','2026-11-25T10:01:54.435710285Z','4104320119303766437');
CREATE TABLE workspaces (
    folded TEXT PRIMARY KEY,
    scope  TEXT NOT NULL,
    doc    TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "workspaces" VALUES('00000000-0000-0000-0000-000000000000/trainyard/default','00000000-0000-0000-0000-000000000000/trainyard','{"subscription":"00000000-0000-0000-0000-000000000000","resourceGroup":"trainyard","name":"default","location":"local","tags":{},"created":1795593787375}');
CREATE INDEX jobs_by_scope ON jobs (scope, id);
CREATE INDEX jobs_open ON jobs (id) WHERE open = 1;
CREATE INDEX experiments_by_scope ON experiments (scope);
CREATE INDEX jobs_ended ON jobs (ended, id) WHERE open = 0;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('journal',10);
COMMIT;
