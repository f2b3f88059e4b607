-- When a job ended, ms since 1970: what is old is found without reading documents.
ALTER TABLE jobs ADD COLUMN ended INTEGER;
-- HMAC-SHA256 of the secrets of a job that has ended, whose values are wiped; NULL: it had none, or is open.
ALTER TABLE jobs ADD COLUMN secrets_mac TEXT;

UPDATE jobs SET ended = json_extract(doc, '$.phase.ended.at') WHERE open = 0;

CREATE INDEX jobs_ended ON jobs (ended, id) WHERE open = 0;
