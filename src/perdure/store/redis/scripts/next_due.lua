-- When something becomes due.
--
-- asked: 1 queues, 2 workflows or nil. Returns the earliest due_at, or nil.

local earliest = nil
wanted_lanes(asked[1], asked[2], function(lane, of, due)
  earliest = math.min(earliest or due, due)
end)
return earliest or false
