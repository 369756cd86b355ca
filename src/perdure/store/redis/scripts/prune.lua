-- Remove expired runs.
--
-- asked: 1 before, 2 how many at most, 3 how many records and messages at most, but for those of the first run. Returns how
-- many were removed.

local expired = redis.call('ZRANGEBYSCORE', EXPIRES, '-inf', format('%.0f', asked[1]), 'LIMIT', 0, asked[2])
know_rows(expired)
local old, inbox, seen, ids, numbers_gone, created, family, pruned = {}, {}, {}, {}, {}, {}, {}, 0
for _, number in ipairs(expired) do
  local row = row_of(number)
  local sent = {}
  for seq = 1, row.m or 0 do
    sent[seq] = number .. ':' .. seq
  end
  if pruned > 0 and #old + #inbox + row.j + #sent > asked[3] then
    break
  end
  for index, message in ipairs(fetch(INBOX, sent)) do
    if message then
      inbox[#inbox + 1] = sent[index]
      seen[#seen + 1] = number .. ':' .. string.match(message, '^.([^%z]*)')
    end
  end
  for position = 0, row.j - 1 do
    old[#old + 1] = number .. ':' .. position
  end
  ids[#ids + 1] = row.y
  numbers_gone[#numbers_gone + 1] = number
  created[#created + 1] = created_entry(row, row.S)
  if row.P then
    family[#family + 1] = row.P .. '\0' .. number
  end
  count(row.S, -1)
  pruned = pruned + 1
end
many('HDEL', RECORDS, old)
many('HDEL', INBOX, inbox)
many('HDEL', SEEN, seen)
many('HDEL', IDS, ids)
many('HDEL', RUNS, numbers_gone)
many('ZREM', CREATED, created)
many('ZREM', FAMILY, family)
many('ZREM', EXPIRES, numbers_gone)
flush()
return pruned
