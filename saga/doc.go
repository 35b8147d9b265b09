// Package saga runs long transactions across services: steps, and what undoes them.
//
// # The problem
//
// An order needs stock, money and a parcel from services that share no database. No transaction spans them, every
// one of them may refuse, and every message between them may come late, twice, or while one side is down. A saga
// (Garcia-Molina and Salem, 1987) gives up isolation and keeps the rest: it goes forward step by step, and when a
// step fails for certain it undoes what was done, in reverse order. Behind one step, its pivot, it only goes forward.
//
// # A definition
//
// [Define] makes a definition out of nodes over a state S of your own: [Step] sends a command and takes its reply,
// [Local] works in the host's own database, [Wait] waits for an event, [Parallel], [When] and [Sub] compose, and
// [OnCancel] says what a late cancel means. It refuses graphs that cannot keep their promises. All functions but a
// Local's are pure: the engine owns every effect, may call them again, and package sagatest calls them in every
// order that can happen.
//
// # Outcomes
//
// A command ends in one of four ways, and the difference between the last two is what most saga code gets wrong:
//
//	ok             the step is done
//	rejected       refused for certain: nothing to undo here, undo what was done before
//	not executed   certainly without effect, and it never will have one: send it again under a new token
//	in doubt       no answer: it may have happened, it may still happen. Send it again under the same token;
//	               then undo it through a participant that settles it first, or park
//
// A token is (saga, step, incarnation). All tries of an incarnation carry the same, a reply to any of them counts, and
// the undo names the incarnation that it undoes. A pivot in doubt is never undone and never passed.
//
// # Participants
//
// [Participant] puts a service's do and undo behind a table of tokens: a duplicate gets the stored reply, an undo
// that comes first is remembered and keeps its do from ever running, an undo that meets a do in flight waits for it.
// Commands of steps must be handled by participants, or by handlers that do the same.
//
// # The engine
//
// [NewEngine] hosts sagas in a consumer group. Whatever one transaction of the group brings (64 or 256 replies of as
// many sagas) is folded in memory and stored by one load, one compare-and-set update, one journal insert and one
// insert into the outbox. Instances whose transitions write to the host's database are locked when they are loaded;
// the others are not, and one that lost the race is folded again. Timeouts are a column of the instance, compared
// with the database's clock; there are no timer messages.
//
//	engine, err := saga.NewEngine(svc.Processor, saga.EngineConfig{})
//	orders := saga.Register(engine, Fulfil)
//	saga.StartOn(orders, begin)
//	saga.CancelOn(orders, cancel)
//	svc.Add(engine)
//
// Both sides need [Migrate], an outbox, and a unit of work of package outbox/uow; participants a sweeper with a
// [ParticipantPurger].
//
// # What is not guaranteed
//
// Isolation: others see the effects of a saga that is undone later. An order of messages between different sagas.
// An end: a saga that nobody can finish safely is parked, visibly, for an operator.
//
// # Failures
//
//	what happens                            what the saga does
//	a step is refused                       undoes what was done before, in reverse order; ends compensated
//	a step behind the pivot is refused      parks: what a participant there needs is to be made firm before the pivot
//	no reply in time                        sends it again under the same token, Retry.Attempts times
//	still none, before the pivot            undoes it and all before it; Exhausted: Park parks instead
//	still none, at the pivot or behind it   parks; a reply that comes after all lets it go on
//	an undo is refused or not answered      parks; Retry sends it again
//	a Parallel sibling fails                starts nothing, lets the others settle, then undoes
//	cancel before the pivot's command left  undoes
//	cancel after it                         lets it settle; OnCancel.Then if it was done, else undoes
//	duplicates, late and forged replies     ignored: token and incarnation do not fit
//	an event before its Wait, or its saga   kept; a dead letter if no saga is started within EngineConfig.Early
//	a function panics, a reply is garbage   this instance is suspended and keeps its messages; the others go on
//	the engine is killed                    nothing: a transition and its commands commit together or not at all
//	replies queue up                        timers wait (EngineConfig.MaxReplyAge, MaxReplyLag)
//	a command arrives after its deadline    its participant refuses it, for good, as not executed
//	an undo whose do may have been purged   its participant refuses it; parks
//	the graph changed under its version     the engine does not start: ErrChanged; its messages wait
//	an instance of an unknown version       its messages wait for a process that knows it
package saga
