-- New runs that are handed over to workers.

local HANDED_BYTES = 65536 -- a longer run is claimed: who hears too slowly of much is cut off by the server

local function fits(offer, row)
  return offer[4] > row.a
    and string.find(offer[5], '\0' .. row.q .. '\0', 1, true)
    and (not offer[6] or string.find(offer[6], '\0' .. row.w .. '\0', 1, true))
end

-- The worker's id and the lengths of row and records, then those themselves.
local function handed_text(row, first)
  local parts = { cmsgpack.pack(row), unpack(ARGV, first, first + row.j - 1) }
  local head = { row.o }
  for index, part in ipairs(parts) do
    head[index + 1] = #part
  end
  return table.concat(head, ' ') .. '\n' .. table.concat(parts)
end

-- Lease a new run to the first worker that is there of those it fits, and say whether there is one.
local function hand_over(row, first, offers)
  local due, place = row.d, 1
  while offers[place] do
    local offer = offers[place]
    if fits(offer, row) then
      table.remove(offers, place)
      row.S, row.o, row.d, row.b, row.e = 'r', offer[2], row.a + offer[3], row.a, 1
      local heard = redis.pcall('PUBLISH', offer[1], handed_text(row, first))
      if type(heard) == 'number' and heard > 0 then
        touch(row)
        return true
      end
      row.S, row.o, row.d, row.b, row.e = 'q', nil, due, nil, nil
    else
      place = place + 1
    end
  end
  return false
end

-- Whether a new run may be handed over at all; its texts follow the one at `last`.
local function may_be_handed(new, last, is_there)
  -- the journal of one with a dedup key may be another one's by now
  if is_there or new[2] ~= 'q' or new[10] then
    return false
  end
  local bytes = 0
  for place = last + 1, last + 1 + new[6] do
    bytes = bytes + #ARGV[place]
  end
  return bytes <= HANDED_BYTES
end

-- Hand over what is new, waits for a worker, is due and not too long; `there` is what `insert` returned. Returns how many.
local function hand_over_new(list, there)
  local last, handed, offers, text = 2, 0, nil, nil
  for index, new in ipairs(list) do
    if may_be_handed(new, last, there[index]) then
      if not offers then
        offers, text = offers_but(nil)
      end
      local row = #offers > 0 and row_of(numbers[new[1]])
      if row and row.d <= row.a and not gated({ row.q })[row.q] and hand_over(row, last + 2, offers) then
        handed = handed + 1
      end
    end
    last = last + 1 + new[6]
  end
  if offers then
    keep_offers(offers, text)
  end
  return handed
end
