package outbox

// AppendHeaders and ParseHeaders are the codec of the headers column.
var (
	AppendHeaders = appendHeaders
	ParseHeaders  = parseHeaders
)
