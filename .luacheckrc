std = "ngx_lua"
max_line_length = 125
files["spec"].std = "ngx_lua+busted"
files["spec/runner.lua"].std = "ngx_lua"
