// Package gormstore keeps aggregates, parked messages, dead letters, effects, signs of life and the state of
// projections in the unit of work's database: PostgreSQL, MySQL, MariaDB or SQLite.
//
// # The problem
//
// What a handler changes, the events of that change and the bookkeeping of its message must commit together. So
// everything here works in the transaction that the context carries (package outbox/uow), which many handlers
// share, and is written for that: one statement for what many of them need.
//
// # Wiring
//
//	err := gormstore.Migrate(ctx, db)
//	orders := gormstore.NewRepository[Order, string](sender)
//	letters, err := gormstore.NewDeadLetters(work, gormstore.DeadLettersConfig{})
//	processor, err := cqrs.NewProcessor("orders", sender, cqrs.ProcessorConfig{
//		UnitOfWork: work, Parking: gormstore.NewParking(), DeadLetters: letters, …
//	})
//
// A [Repository] maps whole aggregates with GORM's tags, or through a row type of its own ([NewMapped]). Its SQL
// is written once per dialect; GORM's hooks do not run and associations are refused, not lost: keep an aggregate's
// parts in a column (serializer:json).
//
// # What is guaranteed
//
// A repository saves an aggregate only if its version is the stored one, and its events leave with that commit.
// Messages of a parked queue keep their order, whoever parks, leases and consumes them at the same time. A dead
// letter is replayed by one caller. Leases and due times are those of the database's clock.
//
// # What is not
//
// Tables are not partitioned by tenant, and payloads are stored as they came: a person's data in a dead letter is
// erased by [DeadLetters.Erase], also where it is parked, and dead letters go in time by [DeadLetters.Purge].
//
// # Failures
//
//	no transaction in the context           uow.ErrNoTransaction
//	the version has moved on                aggregate.ErrConflict: the handler runs again
//	a new aggregate's ID is taken           aggregate.ErrExists; the transaction can go on, on PostgreSQL too
//	somebody else leased the message since  cqrs.ErrLeaseLost: nothing of it commits
//	a runner lost its effect                effect.ErrLost
//	an operator without name or reason      [ErrNoActor]
package gormstore
