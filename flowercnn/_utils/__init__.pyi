from flowercnn._utils.arguments import check_count as check_count
from flowercnn._utils.files import as_path as as_path
from flowercnn._utils.files import can_be_written as can_be_written
from flowercnn._utils.files import expanded as expanded
from flowercnn._utils.files import make_folder as make_folder
from flowercnn._utils.files import replace_file as replace_file
from flowercnn._utils.files import replace_folder as replace_folder
from flowercnn._utils.files import user_cache as user_cache
from flowercnn._utils.files import user_home as user_home
from flowercnn._utils.files import write_result as write_result
from flowercnn._utils.interrupts import interrupts_deferred as interrupts_deferred
from flowercnn._utils.lazy import attach as attach
from flowercnn._utils.lazy import moved as moved
from flowercnn._utils.parallel import cpu_count as cpu_count
from flowercnn._utils.parallel import ordered_map as ordered_map
from flowercnn._utils.parallel import picture_map as picture_map
from flowercnn._utils.progress import progress_bar as progress_bar
from flowercnn._utils.progress import tracked as tracked
from flowercnn._utils.seeding import check_seed as check_seed
from flowercnn._utils.seeding import generator as generator
from flowercnn._utils.seeding import stable_hash as stable_hash

__all__: list[str]
