//! The scripts that run inside redis, each in one step.
//!
//! All answer with a list whose first element is one of `ok`, `fenced` (followed by the four fields of the fence),
//! `conflict`, `corrupt` (the fence is none of ours). A fragment number is compared in two halves, since Lua's numbers
//! hold 53 bits, and as numbers, since Lua compares texts by the server's locale.

use std::sync::LazyLock;

use redis::Script;

/// KEYS[1] the fence; ARGV[1..4] epoch, data directory, raised at, address. Refuses or raises.
const ADMIT: &str = r"
local fence = redis.call('HMGET', KEYS[1], 'epoch', 'dir', 'at', 'by')
local epoch = tonumber(ARGV[1])
local standing = nil
if fence[1] then
  standing = tonumber(fence[1])
  if not standing or not fence[2] then return {'corrupt'} end
  if epoch < standing or (epoch == standing and fence[2] ~= ARGV[2]) then
    return {'fenced', fence[1], fence[2], fence[3] or '', fence[4] or ''}
  end
end
if not standing or epoch > standing then
  redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'dir', ARGV[2], 'at', ARGV[3], 'by', ARGV[4])
end
";

/// KEYS[2] the shard; ARGV[5] its bytes.
const PUT_SHARD: &str = r"
local old = redis.call('GET', KEYS[2])
if not old then
  redis.call('SET', KEYS[2], ARGV[5])
elseif old ~= ARGV[5] then
  return {'conflict'}
end
return {'ok'}
";

/// KEYS[2] the manifest, KEYS[3] the heads; ARGV[5] number, ARGV[6] entry, ARGV[7] number of the head and its bytes
/// together, or empty; ARGV[8] how many heads stay, less one.
const PUT_ENTRY: &str = r"
local function above(a, b)
  local a1, b1 = tonumber(string.sub(a, 1, 8), 16), tonumber(string.sub(b, 1, 8), 16)
  if a1 ~= b1 then return a1 > b1 end
  return tonumber(string.sub(a, 9, 16), 16) > tonumber(string.sub(b, 9, 16), 16)
end
redis.call('HSET', KEYS[2], ARGV[5], ARGV[6])
if ARGV[7] ~= '' then
  local newest = redis.call('LINDEX', KEYS[3], 0)
  if newest and not string.match(newest, '^%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x') then return {'corrupt'} end
  if not newest or above(ARGV[7], newest) then
    redis.call('LPUSH', KEYS[3], ARGV[7])
    redis.call('LTRIM', KEYS[3], 0, ARGV[8])
  end
end
return {'ok'}
";

/// KEYS[1] the cluster record, ARGV[1] the one to set if there is none; answers with the one that stands.
const SET_META: &str = r"
redis.call('HSETNX', KEYS[1], 'record', ARGV[1])
return redis.call('HGET', KEYS[1], 'record')
";

pub(super) static RAISE_FENCE: LazyLock<Script> =
    LazyLock::new(|| Script::new(&format!("{ADMIT}return {{'ok'}}")));
pub(super) static PUT_SHARD_SCRIPT: LazyLock<Script> =
    LazyLock::new(|| Script::new(&format!("{ADMIT}{PUT_SHARD}")));
pub(super) static PUT_ENTRY_SCRIPT: LazyLock<Script> =
    LazyLock::new(|| Script::new(&format!("{ADMIT}{PUT_ENTRY}")));
pub(super) static SET_META_SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(SET_META));
