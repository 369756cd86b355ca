-- Carry decisions out.
--
-- asked: a list of decisions, each a list: 1 run's id, 2 epoch, 3 seq, 4 at, 5 status, 6 due_at or nil, 7 seen, 8 the position
-- of its first record, nil for none, -1 if they leave gaps, 9 how many records, 10 whether they replace the journal,
-- 11 wait or nil, 12 state or nil, and unless nil 13 ids consumed, 14 children: what `insert` takes, and behind it
-- 12 parent_key or nil and 13 refusal or nil, 15 posts: run's id, letter, message's id, 16 ids of children to end,
-- 17 ids of those to end if they were never claimed. The texts of each:
-- its records, what its children need, its posts.
--
-- Returns a list with nothing of decisions that were carried out and have no news, and of the others: place in the list, 1 if
-- it is lost, 1 if the run is pausing, unread messages (seq, message, …). Where positions are wrong nothing is kept, and
-- what returns is 'position', place in the list, length of the journal.

local function keeps_lease(decision)
  return decision[5] == 'r' or (decision[5] == 'u' and not decision[6])
end

local function holds(epoch, seq, is_leased, decision)
  return epoch == decision[2] and is_leased and seq == decision[3] - 1
end

-- The place of the first decision that does not continue its journal, and the length of that.
local function gap()
  local ahead = {}
  for index, decision in ipairs(asked) do
    local id = decision[1]
    local row = find(id)
    local now = ahead[id] or (row and { row.e or 0, row.i or 0, row.o, row.j })
    if now and holds(now[1], now[2], now[3], decision) then
      local length = decision[10] and 0 or now[4]
      if decision[8] and decision[8] ~= length then
        return index, now[4]
      end
      ahead[id] = { decision[2], decision[3], keeps_lease(decision), length + decision[9] }
    end
  end
end

local function skip(decision)
  taken = taken + decision[9]
  for _, child in ipairs(decision[14] or {}) do
    taken = taken + 1 + child[6]
  end
  taken = taken + #(decision[15] or {})
end

local function write(row, decision)
  local number = number_of[row]
  if decision[10] then
    flush_records()
    local old = {}
    for position = 0, row.j - 1 do
      old[#old + 1] = number .. ':' .. position
    end
    many('HDEL', RECORDS, old)
    forget(row, false)
    row.j = 0
    row.I = (row.I or 0) + 1
  end
  for position = row.j, row.j + decision[9] - 1 do
    records[#records + 1] = number .. ':' .. position
    records[#records + 1] = text()
  end
  row.j = row.j + decision[9]
  for _, id in ipairs(decision[13] or {}) do
    consume(row, id)
  end
end

local function change(row, decision)
  local at, status = decision[4], decision[5]
  row.i, row.c, row.t, row.W = decision[3], nil, at, decision[11]
  row.T = decision[12] or row.T
  if decision[10] or ENDED[status] then
    row.g = nil
  end
  if keeps_lease(decision) then
    row.S = status
  else
    row.d = decision[6]
    if ENDED[status] then
      row.d, row.f, row.x = nil, at, expiry(row, status, at)
    elseif has_unread(row, decision[7]) then
      row.d = math.min(row.d or at, at)
    end
    row.S = row.z and (status == 'q' or status == 'w' or status == 'u') and 'p' or status
    row.A = row.S == 'q' and not decision[10] and row.A or nil
    row.o, row.z = nil, nil
  end
  touch(row)
end

local function tell_others(row, decision)
  local at, children = decision[4], decision[14]
  for _, id in ipairs(decision[17] or {}) do
    local child = find(id)
    if child and child.P == row.y and (child.e or 0) == 0 then
      terminate(id, at, nil)
    end
  end
  if children then
    local there = insert(children)
    for index, child in ipairs(children) do
      if there[index] then
        local key = child[12] or ''
        local id = child[1] .. '!' .. (child[12] or 'None')
        post(row.y, 'c', id, message_text(key, child[13], at, 'error', child[1]), at, nil)
      end
    end
  end
  for _, message in ipairs(decision[15] or {}) do
    post(message[1], message[2], message[3], text(), at, nil)
  end
  for _, id in ipairs(decision[16] or {}) do
    local child = find(id)
    if child and child.P == row.y then
      terminate(id, at, nil)
    end
  end
end

local ids = {}
for index, decision in ipairs(asked) do
  ids[index] = decision[1]
end
know(ids)
local place, length = gap()
if place then
  return { 'position', place, length }
end

local news, carried_out = {}, {}
for index, decision in ipairs(asked) do
  local row = find(decision[1])
  local is_fresh = row and holds(row.e or 0, row.i or 0, row.o, decision)
  local pausing = row and row.z and 1 or 0
  -- a descendant that an earlier decision of this call ended, or a run that it created, may differ from what `gap` saw
  if is_fresh and decision[8] and decision[8] ~= (decision[10] and 0 or row.j) then
    is_fresh = false
  end
  if is_fresh then
    write(row, decision)
    change(row, decision)
    tell_others(row, decision)
  else
    skip(decision)
  end
  if is_fresh or (row and (row.e or 0) == decision[2] and (row.i or 0) >= decision[3]) then
    local arrived = unread(row, decision[7])
    if pausing == 1 or #arrived > 0 then
      news[#news + 1] = { index, 0, pausing, arrived }
    end
  else
    news[#news + 1] = { index, 1, 0, {} }
  end
end
flush()
return news
