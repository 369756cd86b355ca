-- Replace texts of runs by others that say the same.
--
-- asked: for each run its id, and how many texts are to be replaced; the texts: old, new, old, new … Returns for each how many
-- were, nil for what there is not.
--
-- Records and messages are lists, which are not packed anew, as Lua forgets where a list has nothing: a text is exchanged where it
-- stands in what is packed.

local PAYLOAD, REF, SAID = 6, 10, 2 -- places in a record, and in a message

local WIDTHS = { [0xca] = 5, [0xcb] = 9, [0xcc] = 2, [0xcd] = 3, [0xce] = 5, [0xcf] = 9, [0xd0] = 2, [0xd1] = 3, [0xd2] = 5, [0xd3] = 9 }
local LENGTHS = { [0xd9] = 1, [0xda] = 2, [0xdb] = 4 } -- of a text: how many bytes they take

-- The place behind the value that begins at a place: a number, a text, true, false or nothing.
local function behind(whole, at)
  local kind = string.byte(whole, at)
  if LENGTHS[kind] then
    local length = 0
    for place = at + 1, at + LENGTHS[kind] do
      length = length * 256 + string.byte(whole, place)
    end
    return at + 1 + LENGTHS[kind] + length
  elseif kind >= 0xa0 and kind < 0xc0 then
    return at + 1 + kind - 0xa0
  end
  return at + (WIDTHS[kind] or 1)
end

-- A packed list of fewer than 16, with the text at one of its places exchanged, if it is among the words; and how many were.
local function exchanged(whole, wanted, words)
  local at = 2
  for _ = 2, wanted do
    at = behind(whole, at)
  end
  local following = behind(whole, at)
  local new = words[cmsgpack.unpack(sub(whole, at, following - 1)) or false]
  if not new then
    return whole, 0
  end
  return sub(whole, 1, at - 1) .. cmsgpack.pack(new) .. sub(whole, following), 1
end

local function reword_row(row, words)
  local count, static = 0, cjson.decode(row.s)
  if words[static[3]] then
    static[3] = words[static[3]]
    row.s = cjson.encode(static)
    count = 1
  end
  for _, field in ipairs({ 'W', 'T', 'g' }) do
    if row[field] and words[row[field]] then
      row[field] = words[row[field]]
      count = count + 1
    end
  end
  if count > 0 then
    touch(row)
  end
  return count
end

local function reword_journal(row, words)
  local count = 0
  for index, record in ipairs(journal_of(row)) do
    local new, payloads = exchanged(record, PAYLOAD, words)
    local newer, refs = exchanged(new, REF, words)
    if payloads + refs > 0 then
      records[#records + 1] = number_of[row] .. ':' .. index - 1
      records[#records + 1] = newer
      count = count + payloads + refs
    end
  end
  return count
end

local function reword_inbox(row, words)
  local seqs, changed = (row.u or 0) > 0 and unread_seqs(row, 0, nil, -1) or {}, {}
  local fields = inbox_fields(row, seqs)
  for index, message in ipairs(fetch(INBOX, fields)) do
    local content = string.find(message, '%z') + 1
    local new, count = exchanged(sub(message, content), SAID, words)
    if count > 0 then
      changed[#changed + 1] = fields[index]
      changed[#changed + 1] = sub(message, 1, content - 1) .. new
    end
  end
  many('HSET', INBOX, changed)
  return #changed / 2
end

local ids, done = {}, {}
for index, one in ipairs(asked) do
  ids[index] = one[1]
end
know(ids)
for index, one in ipairs(asked) do
  local words = {}
  for _ = 1, one[2] do
    local old = text()
    words[old] = text()
  end
  local row = find(one[1])
  done[index] = row and not row.G and reword_row(row, words) + reword_journal(row, words) + reword_inbox(row, words)
end
flush()
return done
