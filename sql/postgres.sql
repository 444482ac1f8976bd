-- The tables of the postgres storage, those of lua-resty-session. The index on sid is for removing expired sessions that
-- have metadata. The second table is for `store_metadata` alone.

CREATE TABLE IF NOT EXISTS sessions (
  sid  TEXT PRIMARY KEY,
  name TEXT,
  data TEXT,
  exp  TIMESTAMP WITH TIME ZONE
);
CREATE INDEX IF NOT EXISTS sessions_exp ON sessions (exp);

CREATE TABLE IF NOT EXISTS sessions_meta (
  aud TEXT,
  sub TEXT,
  sid TEXT REFERENCES sessions (sid) ON DELETE CASCADE ON UPDATE CASCADE,
  PRIMARY KEY (aud, sub, sid)
);
CREATE INDEX IF NOT EXISTS sessions_meta_sid ON sessions_meta (sid);
