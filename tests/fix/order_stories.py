"""The order state changes that FIX 4.4 tabulates (volume 4), as stories about an exit order of 100.

One story is one situation; a line is a step of it:

    > order                          the manager sends its order
    > cancel                         it asks for the cancel of it
    > ask                            it asks what the broker knows of it
    ! cancel / ! reject / …          something happens elsewhere; for people to read
    trade partial 100 20 80          the broker reports: what happened, the state, order quantity, filled, left
    trade partial 100 20 80 Y<X      the same under another id, with the one before it
    ? rejected rejected 100 0 0      the broker may say this instead, and then the story ends here
    ~ trade partial 100 50 50        it crosses the step before it: both orders of arrival are told
    no pending_cancel [too_late]     a refusal to cancel, or to replace where `replace` is added

`day`, `gtc`, `ioc`, `limit` after the title say what order it is. `ends` says how the exit must end: `filled` (it is
over and everything is sold), or `alarm` (a person is told; nothing automatic follows while it is in doubt).
"""

from __future__ import annotations

STORIES = """
A.1.a  filled | ends filled
> order
? rejected rejected 100 0 0
new new 100 0 100
? rejected rejected 100 0 0
trade partial 100 20 80
trade partial 100 30 70
trade filled 100 100 0

A.1.b  a day order is partly filled, and done for the day | ends filled
> order
? rejected rejected 100 0 0
new new 100 0 100
trade partial 100 20 80
trade partial 100 30 70
done_for_day done_for_day 100 30 0

B.1.a  canceled with nothing filled | limit | ends filled
> order
? rejected rejected 100 0 0
new new 100 0 100
> cancel
? no new
pending_cancel pending_cancel 100 0 100 Y<X
? no new
canceled canceled 100 0 0 Y<X

B.1.b  executions while the cancel is under way | limit | ends filled
> order
? rejected rejected 100 0 0
new new 100 0 100
trade partial 100 20 80
> cancel
~ trade partial 100 50 50
? no partial
pending_cancel pending_cancel 100 50 50 Y<X
trade pending_cancel 100 60 40
? no partial
canceled canceled 100 60 0 Y<X

B.1.c  filled before the cancel could be accepted | limit | ends filled
> order
? rejected rejected 100 0 0
new new 100 0 100
trade partial 100 20 80
> cancel
~ trade partial 100 50 50
? no partial
pending_cancel pending_cancel 100 50 50 Y<X
trade pending_cancel 100 100 0
no filled too_late

B.1.d  canceled before it was acknowledged | limit | ends filled
> order
pending_new pending_new 100 0 100
> cancel
pending_cancel pending_cancel 100 0 100 Y<X
new new 100 0 100
canceled canceled 100 0 0 Y<X

B.1.d.2  canceled, and never acknowledged | limit | ends filled
> order
pending_new pending_new 100 0 100
> cancel
pending_cancel pending_cancel 100 0 100 Y<X
canceled canceled 100 0 0 Y<X

B.1.e  the acknowledgement and the cancel cross | limit | ends filled
> order
pending_new pending_new 100 0 100
> cancel
~ new new 100 0 100
pending_cancel pending_cancel 100 0 100 Y<X
canceled canceled 100 0 0 Y<X

B.1.f  the cancel arrives where the order is not known yet | limit | ends filled
> order
pending_new pending_new 100 0 100
> cancel
no rejected unknown_order
new new 100 0 100
trade filled 100 100 0

C.1.a  somebody makes it larger, nothing filled | ends alarm
> order
? rejected rejected 100 0 0 | ends filled
new new 100 0 100
! replace
? no new replace | ends filled
pending_replace pending_replace 100 0 100 Y<X
? no new replace | ends filled
replaced new 110 0 110 Y<X
trade partial 110 10 100 Y
trade partial 110 30 80 Y

C.1.b  somebody makes it larger, executions meanwhile | ends alarm
> order
? rejected rejected 100 0 0 | ends filled
new new 100 0 100
trade partial 100 10 90
! replace
trade partial 100 11 89
pending_replace pending_replace 100 11 89 Y<X
trade pending_replace 100 12 88
? no partial replace | ends filled
replaced partial 120 12 108 Y<X
trade partial 120 100 20 Y

C.1.c  somebody makes a filled one larger | ends alarm
> order
? rejected rejected 100 0 0 | ends filled
new new 100 0 100
trade filled 100 100 0
! replace
pending_replace pending_replace 100 100 0 Y<X
? no filled replace | ends filled
replaced partial 120 100 20 Y<X

C.2.a  a change of price comes too late | ends filled
> order
new new 100 0 100
! replace
trade filled 100 100 0
no filled too_late replace

C.2.b  somebody makes it smaller, more than what is filled | ends filled
> order
? rejected rejected 100 0 0
new new 100 0 100
trade partial 100 10 90
! replace
trade partial 100 15 85
? no partial replace
pending_replace pending_replace 100 15 85 Y<X
? no partial replace
replaced partial 80 15 65 Y<X
trade filled 80 80 0 Y

C.2.c  somebody makes it as small as what is filled | ends filled
> order
new new 100 0 100
! replace
trade partial 100 70 30
? no partial replace
pending_replace pending_replace 100 70 30 Y<X
replaced filled 70 70 0 Y<X

C.2.d  somebody makes it smaller than what is filled by then | ends filled
> order
new new 100 0 100
! replace
trade partial 100 80 20
? no partial replace
pending_replace pending_replace 100 80 20 Y<X
replaced filled 80 80 0 Y<X

C.3.a  a change that is refused before it is pending, and one that is accepted | ends filled
> order
new new 100 0 100
! replace
no new replace
! replace
pending_replace pending_replace 100 0 100 Z<X
replaced new 100 0 100 Z<X
trade filled 100 100 0 Z

D.1.a  two changes, one after the other | ends filled
> order
new new 100 0 100
! replace
pending_replace pending_replace 100 0 100 Y<X
replaced new 90 0 90 Y<X
! replace
pending_replace pending_replace 90 0 90 Z<Y
replaced new 80 0 80 Z<Y
trade partial 80 40 40 Z
trade filled 80 80 0 Z

D.1.b  two changes, the first refused | ends filled
> order
new new 100 0 100
trade partial 100 10 90
! replace
pending_replace pending_replace 100 10 90 Y<X
no partial replace Y<X
! replace
pending_replace pending_replace 100 10 90 Z<X
replaced partial 60 10 50 Z<X
trade filled 60 60 0 Z

D.2.a  two changes at once, taken one by one | ends filled
> order
new new 100 0 100
! replace
! replace
pending_replace pending_replace 100 0 100 Y<X
trade pending_replace 100 10 90
pending_replace pending_replace 100 10 90 Z<Y
replaced pending_replace 90 10 80 Y<X
replaced partial 80 10 70 Z<Y
trade filled 80 80 0 Z

D.2.b  two changes at once, both refused | ends filled
> order
new new 100 0 100
! replace
! replace
pending_replace pending_replace 100 0 100 Y<X
pending_replace pending_replace 100 0 100 Z<Y
no pending_replace replace Y<X
no new replace Z<Y
trade filled 100 100 0

E.1.b  canceled by the broker, partly filled | ends filled
> order
? rejected rejected 100 0 0
new new 100 0 100
trade partial 100 50 50
! cancel
canceled canceled 100 50 0

E.1.c  made larger by the broker | ends alarm
> order
new new 100 0 100
trade partial 100 10 90
! replace
replaced partial 110 10 100
trade filled 110 110 0

E.1.d  made smaller by the broker | ends filled
> order
? rejected rejected 100 0 0
new new 100 0 100
restated new 90 0 90
trade partial 90 50 40
trade filled 90 90 0

F.1.a  a repetition is rejected while the order works | ends filled
> order
new new 100 0 100
trade partial 100 10 90
rejected partial 100 10 90 duplicate_order
trade filled 100 100 0

F.1.b  a possible repetition is answered with the state | ends filled
> order
new new 100 0 100
order_status new 100 0 100
rejected new 100 0 100 duplicate_order
trade filled 100 100 0

F.1.b.2  a repetition is rejected as if it were the order | ends filled
> order
new new 100 0 100
rejected rejected 100 0 0 duplicate_order
trade filled 100 100 0

F.1.c  rejected, for it was passed on by word of mouth | ends alarm
> order
! by phone
rejected rejected 100 0 0 duplicate_of_verbal

G.1.a  the broker does not know the order it is asked about | ends filled
> order
new new 100 0 100
trade partial 100 10 90
> ask
order_status rejected 0 0 0 unknown_order
trade filled 100 100 0

G.1.b  asked, and nothing was done | ends filled
> order
? rejected rejected 100 0 0
new new 100 0 100
> ask
order_status new 100 0 100

G.1.c  asked all the time | ends alarm
> order
> ask
order_status pending_new 100 0 100
? rejected rejected 100 0 0 | ends filled
new new 100 0 100
> ask
order_status new 100 0 100
trade partial 100 20 80
> ask
order_status partial 100 20 80
trade filled 100 100 0
> ask
order_status filled 100 100 0
! replace
pending_replace pending_replace 100 100 0 Y<X
replaced partial 120 100 20 Y<X
> ask
order_status partial 120 100 20
order_status partial 120 100 20 Y

H.1.a  good till canceled, goes on the next day | gtc | ends filled
> order
? rejected rejected 100 0 0
new new 100 0 100
trade partial 100 20 80
done_for_day done_for_day 100 20 80
! next day
restated partial 100 20 80
trade partial 100 30 70
done_for_day done_for_day 100 30 70
! next day
restated partial 100 30 70
trade filled 100 100 0

H.1.b  good till canceled, and one share becomes two overnight | gtc | ends alarm
> order
new new 100 0 100
trade partial 100 10 90
done_for_day done_for_day 100 10 90
! split 2
restated partial 200 20 180
trade partial 200 50 150
trade filled 200 200 0

H.1.b.2  good till canceled, and ten shares become one overnight | gtc | ends alarm
> order
new new 100 0 100
trade partial 100 20 80
done_for_day done_for_day 100 20 80
! split 0.1
restated partial 10 2 8
trade filled 10 10 0

H.1.c  good till canceled, canceled the next day | gtc | limit | ends filled
> order
new new 100 0 100
trade partial 100 20 80
done_for_day done_for_day 100 20 80
! next day
restated partial 100 20 80
> cancel
pending_cancel pending_cancel 100 20 80 Y<X
canceled canceled 100 20 0 Y<X

H.1.d  good till canceled, made larger the next day | gtc | ends alarm
> order
new new 100 0 100
trade partial 100 20 80
done_for_day done_for_day 100 20 80
! next day
restated partial 100 20 80
pending_replace pending_replace 100 20 80 Y<X
replaced partial 150 20 130 Y<X
trade partial 150 30 120 Y

H.1.e  good till canceled, and it runs out | gtc | ends filled
> order
new new 100 0 100
trade partial 100 20 80
done_for_day done_for_day 100 20 80
! next day
restated partial 100 20 80
expired expired 100 20 0

I.1.a  fill or kill, killed | ioc | ends filled
> order
? rejected rejected 100 0 0
new new 100 0 100
canceled canceled 100 0 0

I.1.b  immediate or cancel, partly filled | ioc | ends filled
> order
? rejected rejected 100 0 0
new new 100 0 100
trade partial 100 10 90
canceled canceled 100 10 0

I.1.c  a day order expires, partly filled | ends filled
> order
new new 100 0 100
trade partial 100 10 90
expired expired 100 10 0

I.1.d  calculated at the end of the day | ends filled
> order
new new 100 0 100
trade partial 100 40 60
calculated calculated 100 40 0

J.1.a  executions are taken back and corrected after it was filled | ends alarm
> order
new new 100 0 100
trade partial 100 10 90
trade filled 100 100 0
trade_cancel partial 100 90 10
trade_correct partial 100 80 20
trade filled 100 100 0

J.1.a.2  only the price of an execution is corrected | ends alarm
> order
new new 100 0 100
trade partial 100 40 60
trade_correct partial 100 40 60 @99.5
trade filled 100 100 0

J.1.a.3  the price is corrected when it is all over | ends alarm
> order
new new 100 0 100
trade filled 100 100 0
trade_correct filled 100 100 0 @99.5

J.1.b  an execution of a canceled order is taken back, and a new one comes | ends alarm
> order
new new 100 0 100
trade partial 100 50 50
canceled canceled 100 50 0
trade_cancel canceled 100 40 0
trade canceled 100 60 0

J.1.c  good till canceled, executions of both days are corrected | gtc | ends alarm
> order
new new 100 0 100
trade partial 100 10 90
done_for_day done_for_day 100 10 90
! next day
restated partial 100 10 90
trade partial 100 20 80
trade_correct partial 100 15 85
trade_correct partial 100 12 88
trade filled 100 100 0

J.1.d  done for the day, then a correction, and all is taken back | ends alarm
> order
new new 100 0 100
trade partial 100 50 50
done_for_day done_for_day 100 50 0
trade_correct done_for_day 100 40 0
trade_cancel done_for_day 100 0 0

K.1.a  a halt, and it goes on | ends filled
> order
new new 100 0 100
trade partial 100 10 90
! halt
suspended suspended 100 10 90
! goes on
restated partial 100 10 90
trade filled 100 100 0

K.1.b  a halt, and it is canceled | ends filled
> order
new new 100 0 100
trade partial 100 10 90
! halt
suspended suspended 100 10 90
! cancel
canceled canceled 100 10 0

L.1.a  a price is guaranteed before the execution | ends filled
> order
? rejected rejected 100 0 0
new new 100 0 100
stopped stopped 100 0 100
trade partial 100 50 50
trade filled 100 100 0

L.1.b  replaced, and by what is not said | ends alarm
> order
new new 100 0 100
replaced replaced 100 0 100
"""
