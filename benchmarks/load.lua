-- Script for wrk. Arguments: the method, the path, in which {n} stands for a random number,
-- and the largest such number (0: the path is fixed).
local BODY = '{"title": "Benchmark", "content": "' .. string.rep("A line of text. ", 60) .. '"}'

function init(args)
  local method, path, largest = args[1], args[2], tonumber(args[3])
  wrk.method = method
  wrk.path = path
  if method == "POST" then
    wrk.body = BODY
    wrk.headers["Content-Type"] = "application/json"
  end
  if largest > 0 then
    math.randomseed(os.time())
    -- wrk builds the request once unless this function exists.
    function request()
      return wrk.format(nil, (path:gsub("{n}", math.random(largest))))
    end
  end
end

-- The last line of the output is for load.py.
function done(summary, latency)
  local errors = summary.errors
  local others = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format(
    '{"requests": %d, "seconds": %f, "median_ms": %f, "error_responses": %d, "other_errors": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, errors.status, others
  ))
end
