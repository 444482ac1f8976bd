std = "ngx_lua"
max_line_length = 120
files["spec"].std = "ngx_lua+busted"
files["spec/runner.lua"].std = "ngx_lua"
