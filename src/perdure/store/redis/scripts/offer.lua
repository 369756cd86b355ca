-- Offer that a worker takes a run, unless one is due.
--
-- asked: 1 queues, 2 workflows or nil, 3 worker, 4 now, 5 for how long it leases, 6 until when the offer stands, 7 its channel.
-- Returns 1 if something is due that it could claim, else 0.

local is_due = false
wanted_lanes(open_queues(asked[1]), asked[2], function(lane, of, first)
  is_due = is_due or first <= asked[4]
end)
local offers, text = offers_but(asked[3])
if not is_due then
  local workflows = asked[2] and '\0' .. table.concat(asked[2], '\0') .. '\0' or false
  local queues = '\0' .. table.concat(asked[1], '\0') .. '\0'
  offers[#offers + 1] = { asked[7], asked[3], asked[5], asked[6], queues, workflows }
  if #offers > MOST_OFFERS then
    table.remove(offers, 1)
  end
end
keep_offers(offers, text)
return is_due and 1 or 0
