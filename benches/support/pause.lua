-- Requests that come at most every 20 milliseconds on each connection, as clients of a fault do.
function delay()
  return 20
end
