-- Count what is due.
--
-- asked: 1 queues, 2 workflows or nil, 3 now. Returns how many runs a claim could take.

local due = 0
wanted_lanes(open_queues(asked[1]), asked[2], function(lane, of, first)
  if first <= asked[3] then
    due = due + redis.call('ZLEXCOUNT', DUE, '[' .. lane, '(' .. lane .. time_text(asked[3] + 1))
  end
end)
return due
