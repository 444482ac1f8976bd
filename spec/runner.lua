-- Runs busted specs inside a request: `content_by_lua_block { require("spec.runner").run() }`, with
-- `?file=…`. With `&filter=…`, a Lua pattern as for busted's `--filter`, runs those whose full
-- names match. The last line of the response says how many passed and failed.

local runner = {}

local function describe(element, parent)
  local names = { element.name }
  while parent and parent.name and parent.descriptor ~= "file" do
    table.insert(names, 1, parent.name)
    parent = parent.parent
  end
  return table.concat(names, " ")
end

function runner.run()
  local busted = require "busted.core"()
  require "busted"(busted)
  local passed, failed = 0, 0

  busted.subscribe({ "test", "end" }, function(element, parent, status)
    if status == "success" then
      passed = passed + 1
    else
      failed = failed + 1
      ngx.say("not ok ", describe(element, parent), " (", status, ")")
    end
    return nil, true
  end)
  local function problem(element, _, message, trace)
    if element.descriptor ~= "it" then
      failed = failed + 1
    end
    ngx.say("problem in ", element.name, ": ", tostring(message), "\n", trace and trace.traceback or "")
    return nil, true
  end
  busted.subscribe({ "error" }, problem)
  busted.subscribe({ "failure" }, problem)

  local filter = ngx.req.get_uri_args().filter
  require "busted.modules.filter_loader"()(busted, { filter = { filter } })
  local load = require "busted.modules.test_file_loader"(busted, { "lua" })
  load({ ngx.var.arg_file }, { "_spec" }, { excludes = {}, recursive = false })
  require "busted.execute"(busted)(1, {})
  ngx.say(passed, " passed, ", failed, " failed")
end

return runner
