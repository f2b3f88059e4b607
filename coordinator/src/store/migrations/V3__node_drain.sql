-- Why a node takes no new work, as JSON; NULL: it takes work.
ALTER TABLE nodes ADD COLUMN drain TEXT;
