-- Take a worker's offer back.
--
-- asked: 1 worker, 2 its channel. It hears of that behind everything else. Returns how many hear that.

local offers, text = offers_but(asked[1])
keep_offers(offers, text)
local heard = redis.pcall('PUBLISH', asked[2], asked[1] .. '\n')
return type(heard) == 'number' and heard or 0
