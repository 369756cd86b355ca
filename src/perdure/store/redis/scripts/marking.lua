-- What every script ends with. Its own file is the body of `work`.
--
-- A connection waits only for what it wrote itself. A script that finds its work done has to wait for what another one wrote,
-- so it leaves a mark behind that. There may be no memory left for it: then there is nothing to wait for that was not written.

local answer = work()
if ARGV[2] == '1' then
  local marked = redis.pcall('HSET', META, 'mark', 1)
  if type(marked) == 'table' and marked.err and not string.find(marked.err, 'OOM', 1, true) then
    return marked
  end
end
return answer
