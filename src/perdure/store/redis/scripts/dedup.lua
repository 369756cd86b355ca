-- Dedup keys: who stands for whom.

-- What is kept of a key: whose it is, until when, whether it is replacing, the latest due_at.
local function kept_dedup(text)
  local number, till, replacing, latest = string.match(text, '^([^:]*):(%-?%d*):(%d):(%-?%d*)$')
  return { number = number, till = tonumber(till), is_replacing = replacing == '1', latest = tonumber(latest) }
end

local function as_text(time)
  return time and format('%.0f', time) or ''
end

local function dedup_text(number, dedup)
  return number .. ':' .. as_text(dedup[2]) .. ':' .. (dedup[3] and 1 or 0) .. ':' .. as_text(dedup[4])
end

local function is_unclaimed(row)
  return row.S == 'q' and (row.e or 0) == 0
end

-- Whether a run stands for what is created at a time with the key that it was created with.
local function stands(row, kept, at)
  if kept.is_replacing then
    return is_unclaimed(row)
  elseif kept.till then
    return at < kept.till
  end
  return not ENDED[row.S]
end

-- Take out the entries of runs that have some, unless other runs have the keys by now.
local function forget_dedup(list)
  local keys, gone = {}, {}
  for index, row in ipairs(list) do
    keys[index] = row.U
  end
  for index, kept in ipairs(fetch(DEDUP, keys)) do
    if kept and kept_dedup(kept).number == number_of[list[index]] then
      gone[#gone + 1] = keys[index]
    end
  end
  many('HDEL', DEDUP, gone)
end
