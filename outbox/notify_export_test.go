package outbox

import "context"

// NotifyWindow is the time in which at most one notification is sent.
const NotifyWindow = notifyWindow

// NotifyRest is the time without notifications after one has failed.
const NotifyRest = notifyRest

// NotifyTimeout bounds one notification.
const NotifyTimeout = notifyTimeout

// NewNotifier returns the two ends of a notifier.
func NewNotifier(send func(context.Context) error) (notify, end func()) {
	n := &notifier{send: send}
	return n.notify, n.close
}
