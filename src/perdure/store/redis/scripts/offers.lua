-- What workers offer to take; see `offers` in keys.py.

local MOST_OFFERS = 16 -- creating looks at each; the oldest makes room

-- Keep a list of offers instead of those that are kept, which were read from `text`.
local function keep_offers(offers, text)
  local is = #offers > 0 and cmsgpack.pack(offers)
  if is and is ~= text then
    redis.call('HSET', META, 'offers', is)
  elseif text and not is then
    redis.call('HDEL', META, 'offers')
  end
end

-- The offers that are kept, but for those of one worker, and the text they were read from.
local function offers_but(worker)
  local text, offers = redis.call('HGET', META, 'offers'), {}
  for _, offer in ipairs(text and cmsgpack.unpack(text) or {}) do
    if offer[2] ~= worker then
      offers[#offers + 1] = offer
    end
  end
  return offers, text
end
