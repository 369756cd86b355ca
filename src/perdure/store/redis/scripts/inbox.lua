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
  redis.call('HSET', INBOX, number .. ':' .. row.m, letter .. message_id .. message)
  redis.call('HSET', SEEN, field, row.m)
  if letter == 'c' then
    row.k = (row.k or 0) + 1
    redis.call('ZADD', MAIL, 0, mail_entry(number, 'u', row.m), 0, mail_entry(number, 'c', row.m))
  else
    redis.call('ZADD', MAIL, 0, mail_entry(number, 'u', row.m))
  end
  if not row.o then
    row.d = math.min(row.d or now, now)
  end
  row.t = now
  touch(row)
  return ''
end

local function inbox_fields(row, seqs)
  local fields = {}
  for index, seq in ipairs(seqs) do
    fields[index] = number_of[row] .. ':' .. seq
  end
  return fields
end

-- The seqs, in order, of messages of a class (u unread, c of children) behind one seq, up to another unless nil.
local function seqs_of(row, class, after, last, most)
  local number = number_of[row]
  local start = number .. ':' .. class
  local stop = last and '[' .. mail_entry(number, class, last) or '(' .. start .. '\255'
  local seqs = redis.call('ZRANGEBYLEX', MAIL, '(' .. mail_entry(number, class, after), stop, 'LIMIT', 0, most)
  for index, entry in ipairs(seqs) do
    seqs[index] = number_from(sub(entry, #start + 1))
  end
  return seqs
end

local function unread_seqs(row, after, last, most)
  return seqs_of(row, 'u', after, last, most)
end

local function has_unread(row, after)
  return (row.u or 0) > 0 and row.m > after and #unread_seqs(row, after, nil, 1) > 0
end

-- The unread messages with a seq above `after`: seq, message, seq, message …
local function unread(row, after)
  local found = {}
  if (row.u or 0) > 0 and row.m > after then
    local seqs = unread_seqs(row, after, nil, -1)
    for index, message in ipairs(fetch(INBOX, inbox_fields(row, seqs))) do
      found[#found + 1] = seqs[index]
      found[#found + 1] = message
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
  redis.call('ZREM', MAIL, mail_entry(number, 'u', tonumber(seq)))
  row.u = row.u - 1
end

-- Forget messages: those of children if `letters` has c and C, events that were read if it has E.
local function forget_some(row, seqs, letters)
  local number, fields = number_of[row], inbox_fields(row, seqs)
  local inbox, seen, mail = {}, {}, {}
  for index, message in ipairs(fetch(INBOX, fields)) do
    local letter = message and sub(message, 1, 1)
    if letter and letters[letter] then
      inbox[#inbox + 1] = fields[index]
      seen[#seen + 1] = number .. ':' .. string.match(message, '^.([^%z]*)')
      if letter ~= 'E' then
        mail[#mail + 1] = mail_entry(number, 'c', seqs[index])
      end
      if letter == 'c' then
        mail[#mail + 1] = mail_entry(number, 'u', seqs[index])
        row.u = row.u - 1
      end
    end
  end
  many('HDEL', INBOX, inbox)
  many('HDEL', SEEN, seen)
  many('ZREM', MAIL, mail)
end

-- Forget the messages of children, and with `all` also what was read.
local function forget(row, all)
  if (row.k or 0) > 0 then
    local seqs = seqs_of(row, 'c', 0, nil, MANY)
    while #seqs > 0 do
      forget_some(row, seqs, { c = true, C = true })
      seqs = seqs_of(row, 'c', seqs[#seqs], nil, MANY)
    end
    row.k = 0
  end
  for first = 1, all and row.m or 0, MANY do
    local seqs = {}
    for seq = first, math.min(row.m, first + MANY - 1) do
      seqs[#seqs + 1] = seq
    end
    forget_some(row, seqs, { E = true })
  end
end
