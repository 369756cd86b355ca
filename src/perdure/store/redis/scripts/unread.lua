-- Look at an inbox.
--
-- asked: 1 run's id. Returns the unread messages: seq, message, …

local row = find(asked[1])
return row and unread(row, 0) or {}
