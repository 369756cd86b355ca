-- Messages.

local READ = { E = true, C = true }

-- A message's text, as the client writes it: type, payload, at, state, ref.
local function message_text(kind, payload, at, state, ref)
  return '\0\149' .. cmsgpack.pack(kind, payload, at, state, ref)
end

-- Put a message into a run's inbox; says what became of it (see `POSTED` in arrivals.py).
local function post(id, letter, message_id, message, now, capacity)
  local row = find(id)
  if not row then
    return 'n'
  end
  local number = number_of[row]
  local field = number .. ':' .. message_id
  if redis.call('HEXISTS', SEEN, field) == 1 then
    return 'd'
  elseif ENDED[row.S] then
    return 'f'
  elseif capacity and (row.u or 0) >= capacity then
    return 'x'
  end
  row.m = (row.m or 0) + 1
  row.u = (row.u or 0) + 1
  row.k = (row.k or 0) + (letter == 'c' and 1 or 0)
  redis.call('HSET', INBOX, number .. ':' .. row.m, letter .. message_id .. message)
  redis.call('HSET', SEEN, field, row.m)
  if row.S ~= 'r' then
    row.d = math.min(row.d or now, now)
  end
  row.t = now
  touch(row)
  return ''
end

-- The unread messages with a seq above `after`: seq, message, seq, message …
local function unread(row, after)
  local found = {}
  if (row.u or 0) > 0 then
    local seqs, fields = {}, {}
    for seq = math.max(after, row.l or 0) + 1, row.m do
      seqs[#seqs + 1] = seq
      fields[#fields + 1] = number_of[row] .. ':' .. seq
    end
    for index, message in ipairs(fetch(INBOX, fields)) do
      if message and not READ[sub(message, 1, 1)] then
        found[#found + 1] = seqs[index]
        found[#found + 1] = message
      end
    end
  end
  return found
end

-- Read a message: what is left of it is enough to know it again.
local function consume(row, message_id)
  local number = number_of[row]
  local seq = redis.call('HGET', SEEN, number .. ':' .. message_id)
  local message = seq and redis.call('HGET', INBOX, number .. ':' .. seq)
  if not message or READ[sub(message, 1, 1)] then
    return
  end
  redis.call('HSET', INBOX, number .. ':' .. seq, string.upper(sub(message, 1, 1)) .. message_id)
  row.u = row.u - 1
  -- row.l: nothing unread up to there, so that a run that has read thousands does not look at them again
  if row.u == 0 then
    row.l = row.m
  else
    local low = row.l or 0
    while low < row.m do
      local next = redis.call('HGET', INBOX, number .. ':' .. (low + 1))
      if next and not READ[sub(next, 1, 1)] then
        break
      end
      low = low + 1
    end
    row.l = low
  end
end

-- Forget the messages of children, and with `all` also what was read.
local function forget(row, all)
  if (row.k or 0) > 0 or all then
    local number = number_of[row]
    for seq = 1, row.m or 0 do
      local message = redis.call('HGET', INBOX, number .. ':' .. seq)
      local letter = message and sub(message, 1, 1)
      if letter and (letter == 'c' or letter == 'C' or (all and letter == 'E')) then
        redis.call('HDEL', INBOX, number .. ':' .. seq)
        redis.call('HDEL', SEEN, number .. ':' .. string.match(message, '^.([^%z]*)'))
        row.u = (row.u or 0) - (letter == 'c' and 1 or 0)
      end
    end
    row.k = 0
  end
end
