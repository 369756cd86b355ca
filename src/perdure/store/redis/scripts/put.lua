-- Write documents, until one does not have the revision that is kept.
--
-- asked: for each its beginning (collection <0> key <0>), its revision, and whether it removes; texts: what follows the beginning,
-- of those that do not remove. Returns how many are written, those that had been before among them.

for n = 1, #asked, 3 do
  local begin, revision, removes = asked[n], asked[n + 1], asked[n + 2]
  local kept = redis.call('ZRANGEBYLEX', DOCUMENTS, '[' .. begin, '(' .. begin .. ':', 'LIMIT', 0, 1)[1]
  local wanted = not removes and begin .. text() or nil
  if (kept and tonumber(string.match(kept, '^%d+', #begin + 1)) or 0) == revision then
    if wanted then -- first: there may be no memory left for it
      redis.call('ZADD', DOCUMENTS, 0, wanted)
    end
    if kept then
      redis.call('ZREM', DOCUMENTS, kept)
    end
  elseif kept ~= wanted then
    return (n - 1) / 3
  end
end
return #asked / 3
