-- Room in each page for the next versions of its rows: an update that finds it and changes no indexed column touches no
-- index. A device's way through a campaign is five updates of one row. Pages that are full already stay as they are.

ALTER TABLE execution SET (fillfactor = 40);
ALTER TABLE device SET (fillfactor = 60);
