-- The devices that have never been seen, of which a large fleet has few; seen_on changes once a day, see 0018.
CREATE INDEX device_never_seen ON device (id) WHERE seen_on IS NULL;
