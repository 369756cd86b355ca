-- Remove expired runs.
--
-- asked: 1 before, 2 how many at most, 3 how many records and messages at most. Returns how many runs were removed, and 1 if it
-- stopped because they had so many records and messages.
--
-- A run that has more is removed in pieces. With the first its id is free, and nobody finds it any more; its row stays, marked as
-- gone, as long as there is something of it.

local expired = redis.call('ZRANGEBYSCORE', EXPIRES, '-inf', format('%.0f', asked[1]), 'LIMIT', 0, asked[2] + 1)
know_rows(expired)
local left, pruned, stopped = asked[3], 0, 0
local old, inbox, seen, mail, ids, numbers_gone, created, family = {}, {}, {}, {}, {}, {}, {}, {}
local deduped = {}

local function hide(row)
  ids[#ids + 1] = row.y
  created[#created + 1] = created_entry(row, row.S)
  if row.P then
    family[#family + 1] = row.P .. '\0' .. number_of[row]
  end
  if row.U then
    deduped[#deduped + 1] = row
  end
  count(row.S, -1)
  row.G = true
  pruned = pruned + 1
end

-- Remove messages, then records, from the end on, as many as are left to remove.
local function clear(row)
  local number, fields = number_of[row], {}
  local last = row.m or 0
  row.m = math.max(0, last - left)
  for seq = row.m + 1, last do
    fields[#fields + 1] = number .. ':' .. seq
    mail[#mail + 1] = mail_entry(number, 'u', seq)
    mail[#mail + 1] = mail_entry(number, 'c', seq)
  end
  for index, message in ipairs(fetch(INBOX, fields)) do
    if message then
      inbox[#inbox + 1] = fields[index]
      seen[#seen + 1] = number .. ':' .. string.match(message, '^.([^%z]*)')
    end
  end
  left = left - #fields
  local length = row.j
  row.j = math.max(0, length - left)
  for position = row.j, length - 1 do
    old[#old + 1] = number .. ':' .. position
  end
  left = left - (length - row.j)
end

for _, number in ipairs(expired) do
  local row = row_of(number)
  if not row then
    numbers_gone[#numbers_gone + 1] = number
  elseif row.G or pruned < asked[2] then
    if left <= 0 then
      stopped = 1
      break
    end
    if not row.G then
      hide(row)
    end
    clear(row)
    if row.j > 0 or row.m > 0 then
      redis.call('HSET', RUNS, number, cmsgpack.pack(row))
      stopped = 1
      break
    end
    numbers_gone[#numbers_gone + 1] = number
  end
end
many('HDEL', RECORDS, old)
many('HDEL', INBOX, inbox)
many('HDEL', SEEN, seen)
many('ZREM', MAIL, mail)
many('HDEL', IDS, ids)
forget_dedup(deduped)
many('HDEL', RUNS, numbers_gone)
many('ZREM', CREATED, created)
many('ZREM', FAMILY, family)
many('ZREM', EXPIRES, numbers_gone)
flush()
return { pruned, stopped }
