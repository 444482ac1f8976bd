std = "ngx_lua"
max_line_length = 120
files["spec"].std = "ngx_lua+busted"
files["spec/runner.lua"].std = "ngx_lua"
files["types"] = { unused_args = false, self = false, max_line_length = false }
