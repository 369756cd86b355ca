-- Count runs.
--
-- asked: 1 now. Returns the counts per status (status, count, …), and for each lane: queue, letter (r or R leased), entries,
-- entries that are due, due_at of the first.

local found = {}
lanes(DUE, '(\0', '+', nil, function(lane, of, first)
  local last = '(' .. lane .. '\255'
  found[#found + 1] = {
    of.queue,
    of.letter,
    redis.call('ZLEXCOUNT', DUE, '[' .. lane, last),
    redis.call('ZLEXCOUNT', DUE, '[' .. lane, '(' .. lane .. time_text(asked[1] + 1)),
    first,
  }
end)
return { redis.call('HGETALL', COUNTS), found }
