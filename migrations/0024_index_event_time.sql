-- Old events are found by their time. They come in its order, so a summary of each range of pages will do.
CREATE INDEX execution_event_by_time ON execution_event USING brin (at);
