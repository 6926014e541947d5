-- The tokens of the names of an entry that is written: src/store/redis/cache/store.rs.
-- Their keys start at KEYS[3]. `fresh` is 8 random bytes, the token of each name that has none.
local NEVER_EXPIRED, ALREADY_EXPIRED = ('0'):rep(8), ('x'):rep(8)
-- A token outlives its entries by a minute, so that not every entry renews it.
local SPARE_MILLIS = 60000

-- Returns the current tokens, and the marks by which an entry lists them.
local function read_tokens(fresh, is_expired)
  local tokens, marks = redis.call('MGET', unpack(KEYS, 3)), {}
  for number, token in ipairs(tokens) do
    token = token or (fresh .. NEVER_EXPIRED)
    if is_expired then
      token = token:sub(1, 8) .. ALREADY_EXPIRED
    end
    marks[number] = KEYS[number + 2]:sub(-TOKEN_NAME_BYTES) .. token
  end
  return tokens, table.concat(marks)
end

-- Writes the missing tokens, and extends the expiry of all beyond that of the entry.
local function renew_tokens(tokens, fresh, keep_millis)
  for number, token in ipairs(tokens) do
    local key = KEYS[number + 2]
    if not token then
      redis.call('SET', key, fresh .. NEVER_EXPIRED, 'PX', keep_millis + SPARE_MILLIS)
    elseif redis.call('PTTL', key) <= keep_millis + 1000 then
      redis.call('PEXPIRE', key, keep_millis + SPARE_MILLIS)
    end
  end
end
